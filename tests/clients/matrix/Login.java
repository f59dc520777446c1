// Logs in with MariaDB Connector/J; lines of "id TAB url TAB user TAB password" in, "id TAB who|error TAB text" out.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;

public class Login {
    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null; ) {
            String[] cell = line.split("\t");
            String said;
            try (Connection connection = DriverManager.getConnection(cell[1], cell[2], cell[3]);
                    ResultSet rows = connection.createStatement().executeQuery("SELECT CURRENT_USER()")) {
                rows.next();
                said = "who\t" + rows.getString(1);
            } catch (Exception error) {
                said = "error\t" + String.valueOf(error.getMessage()).replaceAll("\\s+", " ");
            }
            System.out.println(cell[0] + "\t" + said);
        }
    }
}

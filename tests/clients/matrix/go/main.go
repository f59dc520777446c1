// Logs in with go-sql-driver; see run.py for what goes in and comes out.
package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"

	_ "github.com/go-sql-driver/mysql"
)

type cell struct {
	ID             int
	Port           int
	Socket         string
	TLS            bool
	User, Password string
	Setting        map[string]string
}

func who(one cell) (string, error) {
	where := fmt.Sprintf("tcp(127.0.0.1:%d)", one.Port)
	if one.Socket != "" {
		where = fmt.Sprintf("unix(%s)", one.Socket)
	}
	dsn := fmt.Sprintf("%s:%s@%s/?", one.User, one.Password, where)
	if one.TLS {
		dsn += "tls=skip-verify"
	}
	for name, value := range one.Setting {
		dsn += "&" + name + "=" + value
	}
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return "", err
	}
	defer db.Close()
	var name string
	err = db.QueryRow("SELECT CURRENT_USER()").Scan(&name)
	return name, err
}

func main() {
	var cells []cell
	if err := json.NewDecoder(os.Stdin).Decode(&cells); err != nil {
		panic(err)
	}
	for _, one := range cells {
		said := map[string]interface{}{"id": one.ID}
		if name, err := who(one); err != nil {
			said["error"] = err.Error()
		} else {
			said["who"] = name
		}
		line, _ := json.Marshal(said)
		fmt.Println(string(line))
	}
}

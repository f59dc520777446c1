<?php
// Logs in with mysqli and PDO; see run.py for what goes in and comes out.
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
error_reporting(0);

function with_mysqli(array $cell): string
{
    $db = mysqli_init();
    $flags = $cell['tls'] ? MYSQLI_CLIENT_SSL | MYSQLI_CLIENT_SSL_DONT_VERIFY_SERVER_CERT : 0;
    $host = $cell['socket'] ? 'localhost' : '127.0.0.1';
    $db->real_connect($host, $cell['user'], $cell['password'], '', $cell['port'], $cell['socket'] ?: null, $flags);
    return $db->query('SELECT CURRENT_USER()')->fetch_row()[0];
}

function with_pdo(array $cell): string
{
    $where = $cell['socket'] ? "unix_socket={$cell['socket']}" : "host=127.0.0.1;port={$cell['port']}";
    // PDO asks for TLS when it is given any of its options.
    $tls = $cell['tls'] ? [PDO::MYSQL_ATTR_SSL_CA => '', PDO::MYSQL_ATTR_SSL_CIPHER => 'DEFAULT',
                           PDO::MYSQL_ATTR_SSL_VERIFY_SERVER_CERT => false] : [];
    $db = new PDO("mysql:$where", $cell['user'], $cell['password'], $tls);
    return $db->query('SELECT CURRENT_USER()')->fetchColumn();
}

foreach (json_decode(stream_get_contents(STDIN), true) as $cell) {
    try {
        $said = ['who' => $cell['client'] === 'PHP mysqli' ? with_mysqli($cell) : with_pdo($cell)];
    } catch (Throwable $error) {
        $said = ['error' => $error->getMessage()];
    }
    echo json_encode(['id' => $cell['id']] + $said), "\n";
}

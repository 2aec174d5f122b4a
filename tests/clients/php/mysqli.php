<?php
// The job by mysqli: php mysqli.php plain|persistent host port user password schema
[, $kind, $host, $port, $user, $password, $schema] = $argv;
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$seen = [];
function see(string $step, mixed ...$values): void { global $seen; $seen[] = [$step, ...$values]; }
function open(): mysqli {
    global $kind, $host, $port, $user, $password, $schema;
    return new mysqli(($kind === 'persistent' ? 'p:' : '') . $host, $user, $password, $schema, (int) $port);
}
function ask(mysqli $link, string $statement): mixed {
    try {
        $result = $link->query($statement);
        return [is_bool($result) ? $result : $result->fetch_all(), $link->affected_rows, $link->insert_id, $link->warning_count];
    } catch (mysqli_sql_exception $error) {
        return [$error->getCode(), $error->getSqlState(), $error->getMessage()];
    }
}
const TEXT = "naïve Ω 漢字 🐬 ' \" \\";
$link = open();
$link->set_charset('utf8mb4');
see('id', $link->query('SELECT CONNECTION_ID()')->fetch_row()[0] == $link->thread_id);
see('hello', $link->server_info, $link->client_info, $link->protocol_version, ask($link, 'SELECT DATABASE(), @@autocommit'));

// Prepared statements: types, three executions, results with types, a blob in pieces.
$save = $link->prepare('INSERT INTO v (n, f, s, b) VALUES (?, ?, ?, ?)');
foreach ([[1, 1.5, TEXT, "\0\xff"], [2, null, null, null], [3, -0.25, '', 'x']] as [$n, $f, $s, $b]) {
    $save->bind_param('idss', $n, $f, $s, $b);
    see('saved', $save->execute(), $save->affected_rows, $save->insert_id);
}
$load = $link->prepare('SELECT id, n, f, s, HEX(b), dt, u FROM v WHERE n >= ?');
foreach ([1, 3, 99, 2] as $n) {
    $load->execute([$n]);
    see('loaded', $load->get_result()->fetch_all());
}
$null = null;
$save->bind_param('idsb', $n, $f, $s, $null);
$n = 4;
for ($i = 0; $i < 20; $i++) { $save->send_long_data(3, str_repeat(chr(65 + $i), 40000)); }
see('long data', $save->execute(), ask($link, 'SELECT LENGTH(b), SHA2(b, 256) FROM v WHERE n = 4'));
$load->attr_set(MYSQLI_STMT_ATTR_CURSOR_TYPE, MYSQLI_CURSOR_TYPE_READ_ONLY);
$load->execute([1]);
$rows = [];
$load->bind_result($id, $n2, $f2, $s2, $b2, $dt2, $u2);
while ($load->fetch()) { $rows[] = [$id, $n2, $s2]; }
see('cursor', $rows);
$load->close();
$save->close();
try { $link->prepare('SELECT * FROM no_such'); } catch (mysqli_sql_exception $error) { see('prepare', $error->getMessage()); }

// Transactions.
foreach (['rollback', 'commit'] as $end) {
    $link->begin_transaction();
    see('inserted', ask($link, 'INSERT INTO v (n) VALUES (21), (22)'));
    $link->$end();
    see($end, ask($link, 'SELECT COUNT(*) FROM v'));
}
$link->autocommit(false);
see('off', ask($link, 'DELETE FROM v WHERE n = 22'));
$link->rollback();
$link->autocommit(true);
foreach (["INSERT INTO v (s) VALUES ('a'), ('b')", 'SELECT LAST_INSERT_ID()', "UPDATE v SET s = 'a' WHERE s IN ('a', 'b')",
          'SELECT ROW_COUNT()', 'SELECT SQL_CALC_FOUND_ROWS id FROM v LIMIT 1', 'SELECT FOUND_ROWS()', 'SELEC 1',
          'INSERT INTO v (id) VALUES (1)', 'SELECT 1/0', 'SHOW WARNINGS', "SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION'",
          "INSERT INTO v (d) VALUES ('abc')", 'SHOW WARNINGS', "SET time_zone = '+05:00'", 'SELECT @@sql_mode, @@time_zone',
          'SET @mine = 5', 'SELECT @mine', 'CREATE TEMPORARY TABLE tmp SELECT 3 AS a', 'SELECT * FROM tmp'] as $statement) {
    see($statement, ask($link, $statement));
}

// Several results.
foreach (["SELECT 1; SELECT 2, 'x'; DO 1; SELEC", 'CALL two()'] as $statement) {
    try {
        $link->multi_query($statement);
        do {
            $result = $link->store_result();
            see($statement, $result ? $result->fetch_all() : null, $link->affected_rows);
        } while ($link->more_results() && $link->next_result());
    } catch (mysqli_sql_exception $error) {
        see($statement, $error->getMessage());
    }
}
$big = str_repeat('x', 1572864);
see('big', ask($link, "INSERT INTO v (n, b) VALUES (5, '$big')"), hash('sha256', $link->query('SELECT b FROM v WHERE n = 5')->fetch_row()[0]));
$result = $link->query('SELECT a.id, REPEAT("y", 1000) FROM v a, v b, v c', MYSQLI_USE_RESULT);
$sum = 0;
while ($row = $result->fetch_row()) { $sum += $row[0] + strlen($row[1]); }
see('streamed', $sum);
$link->change_user($user, $password, $schema);
see('changed', ask($link, 'SELECT @mine, @@time_zone, DATABASE()'), ask($link, 'SELECT * FROM tmp'));
see('ping', $link->query('DO 1'), $link->stat() !== '');
$link->close();

// Come and go; persistent links come back clean (mysqlnd changes the user).
$sum = 0;
for ($i = 0; $i < 60; $i++) {
    $link = open();
    $sum += $link->query("SELECT $i + 1")->fetch_row()[0];
    $left = $link->query('SELECT @left')->fetch_row()[0];
    $link->query("SET @left = $i");
    if ($i % 2) { $link->begin_transaction(); $link->query('DELETE FROM v'); }
    if ($left !== null) { see('left', $left); }
    $link->close();
}
see('many', $sum, ask(open(), 'SELECT COUNT(*) FROM v'));
echo json_encode($seen, JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE);

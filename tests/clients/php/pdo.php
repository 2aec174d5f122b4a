<?php
// The job by PDO: php pdo.php emulated|native|persistent-emulated|persistent-native host port user password schema
[, $kind, $host, $port, $user, $password, $schema] = $argv;
$seen = [];
function see(string $step, mixed ...$values): void { global $seen; $seen[] = [$step, ...$values]; }
function open(): PDO {
    global $kind, $host, $port, $user, $password, $schema;
    return new PDO("mysql:host=$host;port=$port;dbname=$schema;charset=utf8mb4", $user, $password, [
        PDO::ATTR_EMULATE_PREPARES => str_ends_with($kind, 'emulated'),
        PDO::ATTR_PERSISTENT => str_starts_with($kind, 'persistent'),
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
        // As Laravel connects.
        PDO::MYSQL_ATTR_INIT_COMMAND => "SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci",
    ]);
}
function ask(PDO $db, string $statement, array $arguments = []): array {
    try {
        $prepared = $db->prepare($statement);
        $prepared->execute($arguments);
        return [$prepared->columnCount() ? $prepared->fetchAll(PDO::FETCH_NUM) : null, $prepared->rowCount(), $db->lastInsertId()];
    } catch (PDOException $error) {
        return $error->errorInfo;
    }
}
$db = open();
$db->exec("SET SESSION sql_mode='ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'");
see('hello', $db->getAttribute(PDO::ATTR_SERVER_VERSION), ask($db, 'SELECT DATABASE(), @@autocommit, @@collation_connection, @@sql_mode'));
foreach ([[1, 1.5, "naïve Ω 漢字 🐬 ' \" \\", "\0\xff", '2026-02-28 23:59:59.123456'], [2, null, null, null, null], [3, -0.25, '', '', '2026-01-01']] as $row) {
    see('saved', ask($db, 'INSERT INTO v (n, f, s, b, dt) VALUES (?, ?, ?, ?, ?)', $row));
}
$load = $db->prepare('SELECT id, n, f, s, HEX(b), dt, u FROM v WHERE n >= :n ORDER BY n');
foreach ([1, 3, 99, 2] as $n) {
    $load->bindValue('n', $n, PDO::PARAM_INT);
    $load->execute();
    see('loaded', $load->fetchAll(PDO::FETCH_ASSOC));
}
foreach (['rollBack', 'commit'] as $end) {
    $db->beginTransaction();
    see('inserted', ask($db, 'INSERT INTO v (n) VALUES (21), (22)'), $db->inTransaction());
    $db->$end();
    see($end, ask($db, 'SELECT COUNT(*) FROM v'), $db->inTransaction());
}
foreach (["INSERT INTO v (s) VALUES ('a'), ('b')", 'SELECT LAST_INSERT_ID()', "UPDATE v SET s = 'a' WHERE s IN ('a', 'b')",
          'SELECT ROW_COUNT()', 'SELECT SQL_CALC_FOUND_ROWS id FROM v LIMIT 1', 'SELECT FOUND_ROWS()', 'SELEC 1',
          'INSERT INTO v (id) VALUES (1)', 'SELECT 1/0', 'SHOW WARNINGS', "SET time_zone = '+05:00'",
          'SELECT @@time_zone', 'SET @mine = 5', 'SELECT @mine', 'CALL two()', 'SELECT 2'] as $statement) {
    see($statement, ask($db, $statement));
}
$both = $db->query('CALL two()');
do { see('two', $both->fetchAll(PDO::FETCH_NUM)); } while ($both->nextRowset());
$both->closeCursor();
$big = str_repeat('x', 1572864);
see('big', ask($db, 'INSERT INTO v (n, b) VALUES (5, ?)', [$big]), hash('sha256', ask($db, 'SELECT b FROM v WHERE n = 5')[0][0][0]));
$db->setAttribute(PDO::MYSQL_ATTR_USE_BUFFERED_QUERY, false);
$sum = 0;
foreach ($db->query('SELECT a.id, REPEAT("y", 1000) FROM v a, v b, v c') as $row) { $sum += $row[0] + strlen($row[1]); }
see('streamed', $sum);
$db->setAttribute(PDO::MYSQL_ATTR_USE_BUFFERED_QUERY, true);
$db = $load = $both = null;
$sum = 0;
for ($i = 0; $i < 60; $i++) {
    $db = open();
    $sum += ask($db, 'SELECT ? + 1', [$i])[0][0][0];
    if ($i % 2) { $db->beginTransaction(); ask($db, 'DELETE FROM v'); }
    $db = null;
}
see('many', $sum, ask(open(), 'SELECT COUNT(*) FROM v'));
echo json_encode($seen, JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE);

// The job by mysql2 and mariadb: node main.js mysql2-query|mysql2-execute|mariadb-query|mariadb-execute host port ...
'use strict';
const { createHash } = require('node:crypto');
const [kind, host, port, user, password, database] = process.argv.slice(2);
const isMariadb = kind.startsWith('mariadb');
// The libraries are in .cache/clients/node, not beside this file.
const { createRequire } = require('node:module');
const from = createRequire(`${__dirname}/../../../.cache/clients/node/`);
const library = isMariadb ? from('mariadb') : from('mysql2/promise');
const method = kind.endsWith('execute') ? 'execute' : 'query';
const to = { host, port: Number(port), user, password, database, multipleStatements: method === 'query' };
const seen = [];
const see = (step, ...values) => seen.push([step, ...values]);
const TEXT = 'naïve Ω 漢字 🐬 \' " \\';

function plain(value) {
  if (typeof value === 'bigint') return `${value}n`;
  if (Buffer.isBuffer(value)) return value.length > 100 ? createHash('sha256').update(value).digest('hex') : value.toString('hex');
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Date) return value.toISOString();
  // What the server tracks differs by itself (GTIDs).
  if (value && value.stateChanges) delete value.stateChanges;
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
  return value;
}

async function ask(on, statement, values) {
  try {
    const done = await on[method](statement, values);
    if (isMariadb) return plain(done);
    const [rows, columns] = done;
    return [plain(rows), (columns || []).map((c) => c && !Array.isArray(c) && [c.name, c.columnType, c.flags])];
  } catch (error) {
    return [error.errno, error.sqlState, error.sqlMessage || error.message];
  }
}

async function main() {
  const one = await library.createConnection(to);
  await one.ping();
  const id = await one.query('SELECT CONNECTION_ID() AS id');
  see('id', Number((isMariadb ? id : id[0])[0].id) === one.threadId);
  see('hello', await ask(one, 'SELECT VERSION() v, DATABASE() d, @@autocommit a, @@collation_connection c'));
  const save = 'INSERT INTO v (n, d, f, s, b, dt) VALUES (?, ?, ?, ?, ?, ?)';
  for (const row of [
    [1, '12.5', 1.5, TEXT, Buffer.from([0, 255]), '2026-02-28 23:59:59.123456'],
    [2, null, null, null, null, null],
    [3, '-0.000001', -0.25, '', Buffer.alloc(0), null],
  ]) see('saved', await ask(one, save, row));
  for (const n of [1, 2, 99, 3, 1]) see('loaded', await ask(one, 'SELECT n, d, f, s, b, dt, u FROM v WHERE n = ?', [n]));
  for (const end of ['rollback', 'commit']) {
    await one.beginTransaction();
    see('inserted', await ask(one, 'INSERT INTO v (n) VALUES (21), (22)'));
    await one[end]();
    see(end, await ask(one, 'SELECT COUNT(*) c FROM v'));
  }
  for (const statement of [
    "INSERT INTO v (s) VALUES ('a'), ('b')", 'SELECT LAST_INSERT_ID() i', "UPDATE v SET s = 'a' WHERE s IN ('a', 'b')",
    'SELECT ROW_COUNT() r', 'SELEC 1', 'SELECT * FROM no_such', 'INSERT INTO v (id) VALUES (1)', 'SELECT 1/0 x', 'SHOW WARNINGS',
    "SELECT 1 a; SELECT 2 a, 'x' b; DO 1", 'CALL two()', "SET time_zone = '+02:00'", 'SELECT @@time_zone z', 'SET @mine = 7',
    'SELECT @mine m', 'SELECT SQL_CALC_FOUND_ROWS id FROM v LIMIT 1', 'SELECT FOUND_ROWS() f',
  ]) see(statement, await ask(one, statement));
  see('big', await ask(one, 'INSERT INTO v (n, b) VALUES (5, ?)', [Buffer.alloc(3 * 512 * 1024, 'x')]));
  see('big', await ask(one, 'SELECT b FROM v WHERE n = ?', [5]));
  if (isMariadb) {
    // One reply by bulk execution, one for each row where the server does not offer it.
    const done = [await one.batch('INSERT INTO v (s, u) VALUES (?, ?)', [['m', 1], ['m', 2], [null, 3]])].flat();
    see('batch', done.reduce((sum, part) => sum + part.affectedRows, 0), await ask(one, "SELECT s, u FROM v WHERE u > 0"));
  }
  // MariaDB's library refuses it on MySQL.
  await one.changeUser({ user, password, database }).catch((error) => see('refused', error.errno));
  see('changed', await ask(one, 'SELECT @mine m, @@time_zone z, DATABASE() d'));
  if (one.reset) {
    await one.query('SET @mine = 9');
    await one.reset();
    see('reset', await ask(one, 'SELECT @mine m'));
  }
  await one.end();
  const pool = library.createPool({ ...to, connectionLimit: 2 });
  see('pool', await Promise.all(Array.from({ length: 60 }, async (_, i) => {
    const found = await ask(pool, 'SELECT ? + 1 AS n', [i]);
    return (isMariadb ? found : found[0])[0].n;
  })));
  await pool.end();
  let sum = 0;
  for (let i = 0; i < 60; i++) {
    const link = await library.createConnection(to);
    const found = await ask(link, 'SELECT CAST(? AS SIGNED) AS n', [i]);
    sum += Number.parseInt((isMariadb ? found : found[0])[0].n, 10);
    await link.end();
  }
  see('many', sum);
  console.log(JSON.stringify(seen));
}

main();

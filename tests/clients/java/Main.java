// The job over JDBC: java Main mysql|mysql-prepared|mariadb|mariadb-prepared host port user password schema
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;

public class Main {
  static final String TEXT = "naïve Ω 漢字 🐬 ' \" \\";
  static final List<String> seen = new ArrayList<>();

  static String json(Object value) {
    if (value == null) return "null";
    if (value instanceof byte[] bytes) value = HexFormat.of().formatHex(bytes.length > 100 ? digest(bytes) : bytes);
    if (value instanceof Collection<?> list) {
      StringJoiner joined = new StringJoiner(",", "[", "]");
      list.forEach(part -> joined.add(json(part)));
      return joined.toString();
    }
    StringBuilder text = new StringBuilder("\"");
    for (char c : value.toString().toCharArray()) {
      if (c == '"' || c == '\\') text.append('\\').append(c);
      else if (c < 32) text.append(String.format("\\u%04x", (int) c));
      else text.append(c);
    }
    return text.append('"').toString();
  }

  static byte[] digest(byte[] bytes) {
    try {
      return MessageDigest.getInstance("SHA-256").digest(bytes);
    } catch (java.security.GeneralSecurityException error) {
      throw new IllegalStateException(error);
    }
  }

  static void see(String step, Object... values) {
    List<Object> all = new ArrayList<>(List.of(step));
    Collections.addAll(all, values);
    seen.add(json(all));
  }

  static Object rows(ResultSet result) throws SQLException {
    ResultSetMetaData columns = result.getMetaData();
    List<Object> found = new ArrayList<>();
    for (int i = 1; i <= columns.getColumnCount(); i++)
      found.add(columns.getColumnLabel(i) + " " + columns.getColumnTypeName(i));
    while (result.next()) {
      List<Object> row = new ArrayList<>();
      for (int i = 1; i <= columns.getColumnCount(); i++) row.add(result.getObject(i));
      found.add(row);
    }
    return found;
  }

  static Object ask(Connection on, String text, Object... values) {
    try (PreparedStatement statement = on.prepareStatement(text, Statement.RETURN_GENERATED_KEYS)) {
      for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
      List<Object> all = new ArrayList<>();
      boolean isResult = statement.execute();
      while (isResult || statement.getUpdateCount() >= 0) {
        if (isResult) all.add(rows(statement.getResultSet()));
        else {
          all.add(statement.getUpdateCount());
          try (ResultSet keys = statement.getGeneratedKeys()) {
            while (keys.next()) all.add(keys.getLong(1));
          }
        }
        isResult = statement.getMoreResults();
      }
      for (SQLWarning w = statement.getWarnings(); w != null; w = w.getNextWarning()) all.add(w.getMessage());
      return all;
    } catch (SQLException error) {
      // Connector/J and MariaDB's name the connection in front of some texts.
      return List.of(error.getErrorCode(), String.valueOf(error.getSQLState()), error.getMessage().replaceFirst("^\\(conn=\\d+\\) ", ""));
    }
  }

  public static void main(String[] a) throws Exception {
    boolean isMysql = a[0].startsWith("mysql");
    String url = "jdbc:" + (isMysql ? "mysql" : "mariadb") + "://" + a[1] + ":" + a[2] + "/" + a[5] + "?allowMultiQueries=true"
        + (isMysql ? "&sslMode=DISABLED&allowPublicKeyRetrieval=true" : "&sslMode=disable&allowPublicKeyRetrieval=true")
        + (a[0].endsWith("prepared") ? "&useServerPrepStmts=true&cachePrepStmts=true" : "");
    try (Connection one = DriverManager.getConnection(url, a[3], a[4])) {
      see("hello", one.getMetaData().getDatabaseProductVersion(), one.isValid(2), one.getTransactionIsolation(), one.getCatalog());
      String save = "INSERT INTO v (n, d, f, s, b, dt) VALUES (?, ?, ?, ?, ?, ?)";
      see("saved", ask(one, save, 1L, new java.math.BigDecimal("12.5"), 1.5, TEXT, new byte[] {0, -1}, Timestamp.valueOf("2026-02-28 23:59:59.123456")));
      see("saved", ask(one, save, 2L, null, null, null, null, null));
      see("saved", ask(one, save, -3, "-0.000001", -0.25, "", new byte[0], null));
      for (Object n : new Object[] {1, "2", 99L, -3, 1}) see("loaded", ask(one, "SELECT id, n, d, f, s, b, dt, u FROM v WHERE n = ?", n));
      for (boolean commit : new boolean[] {false, true}) {
        one.setAutoCommit(false);
        see("inserted", ask(one, "INSERT INTO v (n) VALUES (21), (22)"));
        Savepoint point = one.setSavepoint("p");
        see("deleted", ask(one, "DELETE FROM v"));
        one.rollback(point);
        if (commit) one.commit(); else one.rollback();
        one.setAutoCommit(true);
        see("count", ask(one, "SELECT COUNT(*) FROM v"));
      }
      for (String text : List.of("INSERT INTO v (s) VALUES ('a'), ('b')", "SELECT LAST_INSERT_ID()", "UPDATE v SET s = 'a' WHERE s IN ('a', 'b')",
          "SELEC 1", "SELECT * FROM no_such", "INSERT INTO v (id) VALUES (1)", "SELECT 1/0", "SHOW WARNINGS", "SELECT 1; SELECT 2, 'x'; DO 1",
          "CALL two()", "SET time_zone = '+02:00'", "SELECT @@time_zone", "SET @mine = 7", "SELECT @mine")) see(text, ask(one, text));
      see("big", ask(one, "INSERT INTO v (n, b) VALUES (5, ?)", (Object) "x".repeat(3 * 512 * 1024).getBytes(StandardCharsets.UTF_8)));
      see("big", ask(one, "SELECT b FROM v WHERE n = ?", 5));
      try (PreparedStatement batch = one.prepareStatement("INSERT INTO v (s, u) VALUES (?, ?)")) {
        for (int i = 0; i < 50; i++) {
          batch.setString(1, i % 3 == 0 ? null : "batch");
          batch.setInt(2, i);
          batch.addBatch();
        }
        see("batch", Arrays.stream(batch.executeBatch()).boxed().map(n -> n >= 0 || n == Statement.SUCCESS_NO_INFO).toList());
      }
      try (CallableStatement call = one.prepareCall("{CALL two()}")) {
        call.execute();
        see("call", rows(call.getResultSet()), call.getMoreResults(), rows(call.getResultSet()));
      }
      try (Statement stream = one.createStatement(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY)) {
        stream.setFetchSize(isMysql ? Integer.MIN_VALUE : 10);
        ResultSet result = stream.executeQuery("SELECT a.u, REPEAT('y', 1000) FROM v a, v b WHERE a.u < 50 AND b.u < 50");
        long sum = 0;
        while (result.next()) sum += result.getLong(1) + result.getString(2).length();
        see("streamed", sum);
      }
    }
    HikariConfig config = new HikariConfig();
    config.setJdbcUrl(url);
    config.setUsername(a[3]);
    config.setPassword(a[4]);
    config.setMaximumPoolSize(2);
    try (HikariDataSource pool = new HikariDataSource(config)) {
      ExecutorService threads = Executors.newFixedThreadPool(6);
      List<Future<Integer>> answers = new ArrayList<>();
      for (int i = 0; i < 60; i++) {
        int n = i;
        answers.add(threads.submit(() -> {
          try (Connection link = pool.getConnection()) {
            link.setAutoCommit(n % 3 != 0);
            try (PreparedStatement statement = link.prepareStatement("SELECT ? + 1")) {
              statement.setInt(1, n);
              ResultSet result = statement.executeQuery();
              result.next();
              if (n % 3 == 0) link.commit();
              return result.getInt(1);
            }
          }
        }));
      }
      List<Object> sums = new ArrayList<>();
      for (Future<Integer> answer : answers) sums.add(answer.get());
      threads.shutdown();
      see("pool", sums);
    }
    int sum = 0;
    for (int i = 0; i < 15; i++) {
      try (Connection link = DriverManager.getConnection(url, a[3], a[4]); ResultSet result = link.createStatement().executeQuery("SELECT " + i)) {
        result.next();
        sum += result.getInt(1);
      }
    }
    see("many", sum);
    System.out.println("[" + String.join(",", seen) + "]");
  }
}

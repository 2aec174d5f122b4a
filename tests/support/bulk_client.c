/* MariaDB's own C client: bulk execution, and prepare with execute in one go (statement id -1). */
#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  MYSQL *mysql = mysql_init(NULL);
  if (!mysql_real_connect(mysql, argv[1], argv[3], argv[4], "app", atoi(argv[2]), NULL, 0))
    fail("connect", mysql_error(mysql));
  if (mysql_query(mysql, "CREATE OR REPLACE TABLE bulk (a INT, b VARCHAR(20))"))
    fail("create", mysql_error(mysql));

  MYSQL_STMT *stmt = mysql_stmt_init(mysql);
  const char *insert = "INSERT INTO bulk VALUES (?, ?)";
  if (mysql_stmt_prepare(stmt, insert, strlen(insert))) fail("prepare", mysql_stmt_error(stmt));
  int numbers[] = {1, 2, 3};
  char *texts[] = {"one", "two", "three"};
  unsigned long lengths[] = {3, 3, 5};
  unsigned int rows = 3;
  MYSQL_BIND bind[2];
  memset(bind, 0, sizeof bind);
  bind[0].buffer_type = MYSQL_TYPE_LONG;
  bind[0].buffer = numbers;
  bind[1].buffer_type = MYSQL_TYPE_STRING;
  bind[1].buffer = texts;
  bind[1].length = lengths;
  mysql_stmt_attr_set(stmt, STMT_ATTR_ARRAY_SIZE, &rows);
  mysql_stmt_bind_param(stmt, bind);
  for (int round = 0; round < 2; round++) {
    if (mysql_stmt_execute(stmt)) fail("bulk", mysql_stmt_error(stmt));
    printf("bulk %llu\n", mysql_stmt_affected_rows(stmt));
  }
  mysql_stmt_close(stmt);

  stmt = mysql_stmt_init(mysql);
  const char *direct = "INSERT INTO bulk VALUES (4, 'four')";
  if (mariadb_stmt_execute_direct(stmt, direct, strlen(direct)))
    fail("direct", mysql_stmt_error(stmt));
  printf("direct %llu\n", mysql_stmt_affected_rows(stmt));
  mysql_stmt_close(stmt);

  if (mysql_query(mysql, "SELECT COUNT(*), SUM(a), SUM(LENGTH(b)) FROM bulk"))
    fail("count", mysql_error(mysql));
  MYSQL_RES *result = mysql_store_result(mysql);
  MYSQL_ROW row = mysql_fetch_row(result);
  printf("rows %s %s %s\n", row[0], row[1], row[2]);
  mysql_free_result(result);
  mysql_close(mysql);
  return 0;
}

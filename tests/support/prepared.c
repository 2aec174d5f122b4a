/* Executes one statement three times without binding again, then others: what a program against libmariadb does.
   Arguments: host, port, user, password. */

#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int failed, const char *what, MYSQL_STMT *statement)
{
    if (failed) {
        fprintf(stderr, "%s: %u %s\n", what, mysql_stmt_errno(statement), mysql_stmt_error(statement));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    MYSQL *connection = mysql_init(NULL);
    if (argc < 5 || !mysql_real_connect(connection, argv[1], argv[3], argv[4], "app", atoi(argv[2]), NULL, 0)) {
        fprintf(stderr, "connect: %s\n", mysql_error(connection));
        return 1;
    }
    MYSQL_STMT *statement = mysql_stmt_init(connection);
    const char *text = "SELECT ?, ?, CAST(@@server_id AS SIGNED)";
    check(mysql_stmt_prepare(statement, text, strlen(text)), "prepare", statement);

    int number = 0, got = 0, server = 0, first_server = 0, moves = 0;
    char word[16] = "", read[16];
    unsigned long length = 0, read_length = 0;
    my_bool is_null = 0, got_null = 0;
    MYSQL_BIND given[2] = {0}, taken[3] = {0};
    given[0].buffer_type = taken[0].buffer_type = taken[2].buffer_type = MYSQL_TYPE_LONG;
    given[0].buffer = &number;
    given[0].is_null = &is_null;
    given[1].buffer_type = taken[1].buffer_type = MYSQL_TYPE_STRING;
    given[1].buffer = word;
    given[1].length = &length;
    taken[0].buffer = &got;
    taken[0].is_null = &got_null;
    taken[1].buffer = read;
    taken[1].buffer_length = sizeof read;
    taken[1].length = &read_length;
    taken[2].buffer = &server;
    check(mysql_stmt_bind_param(statement, given), "bind", statement);
    const char *words[] = {"one", "two", "three", "four"};
    for (number = 1; number <= 4; number++) {
        strcpy(word, words[number - 1]);
        length = strlen(word);
        is_null = number == 4;
        check(mysql_stmt_execute(statement), "execute", statement);
        check(mysql_stmt_bind_result(statement, taken), "result", statement);
        check(mysql_stmt_store_result(statement), "store", statement);
        check(mysql_stmt_fetch(statement), "fetch", statement);
        if (got_null)
            puts("null");
        else
            printf("%d %.*s\n", got, (int)read_length, read);
        if (number > 2)
            moves += server != first_server;
        first_server = server;
    }
    check(mysql_stmt_close(statement), "close", connection ? NULL : NULL);

    /* PREPARE and EXECUTE in one write, by the name of the statement prepared last. */
    statement = mysql_stmt_init(connection);
    check(mariadb_stmt_execute_direct(statement, "SELECT 7", 8), "direct", statement);
    MYSQL_BIND seven = {0};
    seven.buffer_type = MYSQL_TYPE_LONG;
    seven.buffer = &got;
    check(mysql_stmt_bind_result(statement, &seven), "result", statement);
    check(mysql_stmt_fetch(statement), "fetch", statement);
    printf("direct %d\nmoved %d\n", got, moves > 0);
    mysql_stmt_close(statement);
    mysql_close(connection);
    return 0;
}

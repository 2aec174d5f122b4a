// The job by go-sql-driver: client prepared|interpolated host port user password schema
package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/go-sql-driver/mysql"
)

const text = "naïve Ω 漢字 🐬 ' \" \\"

var seen [][]any

func see(step string, values ...any) { seen = append(seen, append([]any{step}, values...)) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// A connection or a transaction.
type asker interface {
	QueryContext(ctx context.Context, statement string, arguments ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, statement string, arguments ...any) (sql.Result, error)
}

func problem(err error) []any {
	var server *mysql.MySQLError
	if errors.As(err, &server) {
		return []any{server.Number, string(server.SQLState[:]), server.Message}
	}
	return []any{err.Error()}
}

func show(value any) any {
	if bytes, is := value.([]byte); is {
		return string(bytes)
	}
	return fmt.Sprint(value)
}

func ask(on asker, statement string, arguments ...any) any {
	rows, err := on.QueryContext(context.Background(), statement, arguments...)
	if err != nil {
		return problem(err)
	}
	defer rows.Close()
	var sets []any
	for {
		types, _ := rows.ColumnTypes()
		var found []any
		for rows.Next() {
			row := make([]any, len(types))
			into := make([]any, len(types))
			for i := range row {
				into[i] = &row[i]
			}
			must(rows.Scan(into...))
			for i := range row {
				row[i] = show(row[i])
			}
			found = append(found, row)
		}
		var names []string
		for _, column := range types {
			names = append(names, column.Name()+" "+column.DatabaseTypeName())
		}
		sets = append(sets, []any{names, found})
		if err := rows.Err(); err != nil {
			return append(sets, problem(err))
		}
		if !rows.NextResultSet() {
			return append(sets, rows.Err() == nil)
		}
	}
}

func run(on asker, statement string, arguments ...any) any {
	result, err := on.ExecContext(context.Background(), statement, arguments...)
	if err != nil {
		return problem(err)
	}
	id, _ := result.LastInsertId()
	count, _ := result.RowsAffected()
	return []any{id, count}
}

func main() {
	a := os.Args
	dsn := fmt.Sprintf("%s:%s@tcp(%s:%s)/%s?multiStatements=true&parseTime=true", a[4], a[5], a[2], a[3], a[6])
	if a[1] == "interpolated" {
		dsn += "&interpolateParams=true"
	}
	db, err := sql.Open("mysql", dsn)
	must(err)
	db.SetMaxOpenConns(2)
	one, err := db.Conn(context.Background())
	must(err)
	must(one.PingContext(context.Background()))
	see("hello", ask(one, "SELECT VERSION(), DATABASE(), @@autocommit, @@collation_connection"))
	save := "INSERT INTO v (n, d, f, s, b, u) VALUES (?, ?, ?, ?, ?, ?)"
	see("saved", run(one, save, 1, "12.5", 1.5, text, []byte{0, 255}, uint64(1<<63)+5))
	see("saved", run(one, save, 2, nil, nil, nil, nil, nil))
	see("saved", run(one, save, -3, "-0.000001", -0.25, "", []byte{}, 0))
	see("loaded", ask(one, "SELECT n, d, f, s, HEX(b), dt, u FROM v ORDER BY id"))
	see("loaded", ask(one, "SELECT n, d, f, s, HEX(b), dt, u FROM v WHERE n = ? OR s = ?", 1, text))
	prepared, err := one.PrepareContext(context.Background(), "SELECT s, u FROM v WHERE n = ?")
	must(err)
	for _, n := range []any{1, 2, "1", nil, 99} {
		var s, u sql.NullString
		err := prepared.QueryRow(n).Scan(&s, &u)
		see("prepared", s, u, err == sql.ErrNoRows)
	}
	must(prepared.Close())
	for _, end := range []string{"rollback", "commit"} {
		tx, err := one.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		must(err)
		see("inside", run(tx, "INSERT INTO v (n) VALUES (21), (22)"), ask(tx, "SELECT COUNT(*) FROM v"))
		if end == "commit" {
			must(tx.Commit())
		} else {
			must(tx.Rollback())
		}
		see(end, ask(one, "SELECT COUNT(*) FROM v"))
	}
	for _, statement := range []string{
		"SELECT LAST_INSERT_ID()", "UPDATE v SET s = 'a' WHERE n > 20", "SELECT ROW_COUNT()", "SELEC 1",
		"SELECT * FROM no_such", "INSERT INTO v (id) VALUES (1)", "SELECT 1/0", "SHOW WARNINGS",
		"SELECT 1; SELECT 2, 'x'; SELEC", "CALL two()", "SET time_zone = '+02:00'", "SELECT @@time_zone",
		"SET @mine = 7", "SELECT @mine", "SELECT SQL_CALC_FOUND_ROWS id FROM v LIMIT 1", "SELECT FOUND_ROWS()",
	} {
		see(statement, ask(one, statement))
	}
	big := strings.Repeat("x", 3*512*1024)
	see("big", run(one, "INSERT INTO v (n, b) VALUES (5, ?)", big))
	var back []byte
	must(one.QueryRowContext(context.Background(), "SELECT b FROM v WHERE n = ?", 5).Scan(&back))
	see("big", fmt.Sprintf("%x", sha256.Sum256(back)))
	must(one.Close())
	// Its own pool of two: many goroutines, each a transaction or a query.
	var group sync.WaitGroup
	sums := make([]int, 100)
	for i := range sums {
		group.Add(1)
		go func() {
			defer group.Done()
			if i%3 == 0 {
				tx, err := db.Begin()
				must(err)
				must(tx.QueryRow("SELECT ? + COUNT(*) FROM v", i).Scan(&sums[i]))
				must(tx.Rollback())
			} else {
				must(db.QueryRow("SELECT ? * 2", i).Scan(&sums[i]))
			}
		}()
	}
	group.Wait()
	see("pool", sums)
	must(db.Close())
	sum := 0
	for i := range 60 {
		db, err := sql.Open("mysql", dsn)
		must(err)
		var n int
		must(db.QueryRow("SELECT ? + 1", i).Scan(&n))
		sum += n
		must(db.Close())
	}
	see("many", sum)
	text, err := json.Marshal(seen)
	must(err)
	fmt.Println(string(text))
}

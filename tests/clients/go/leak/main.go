// The program that every connection pooler is asked to survive: it queries in a loop and defers each Close to the
// end of the function, so that no connection goes back to database/sql's pool while it runs.
//
// It prints one line of key=value pairs: how many queries succeeded, and how many failed with which error code
// (the driver's own errors, for example a connection that was lost, have the code 0).
package main

import (
	"database/sql"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/go-sql-driver/mysql"
)

func main() {
	dsn := flag.String("dsn", "", "user:password@tcp(host:port)/schema")
	iterations := flag.Int("iterations", 300, "how many queries")
	query := flag.String("query", "SELECT id, v FROM leak WHERE id >= ?", "a query with one argument")
	read := flag.Int("read", 1, "how many rows to read of each result")
	interpolate := flag.Bool("interpolate", false, "put the argument into the text instead of preparing")
	hold := flag.Bool("hold", false, "keep everything open until stdin ends")
	flag.Parse()

	config, err := mysql.ParseDSN(*dsn)
	if err != nil {
		fmt.Fprintln(os.Stderr, "leak:", err)
		os.Exit(2)
	}
	config.InterpolateParams = *interpolate
	db, err := sql.Open("mysql", config.FormatDSN())
	if err != nil {
		fmt.Fprintln(os.Stderr, "leak:", err)
		os.Exit(2)
	}
	succeeded, open, failed := leak(db, *query, *iterations, *read, *hold)
	fmt.Printf("iterations=%d succeeded=%d open=%d", *iterations, succeeded, open)
	codes := make([]int, 0, len(failed))
	for code := range failed {
		codes = append(codes, int(code))
	}
	sort.Ints(codes)
	for _, code := range codes {
		fmt.Printf(" error_%d=%d", code, failed[uint16(code)])
	}
	fmt.Println()
	if len(failed) > 0 {
		os.Exit(1)
	}
}

// leak holds every result open until it returns; open is how many connections that took.
func leak(db *sql.DB, query string, iterations, read int, hold bool) (succeeded, open int, failed map[uint16]int) {
	failed = map[uint16]int{}
	for i := 0; i < iterations; i++ {
		rows, err := db.Query(query, i)
		if err != nil {
			failed[code(err)]++
			continue
		}
		defer rows.Close() // the mistake: it runs when the function ends, not when the turn does
		if err := readSome(rows, i, read); err != nil {
			failed[code(err)]++
			continue
		}
		succeeded++
	}
	if hold {
		io.Copy(io.Discard, os.Stdin)
	}
	return succeeded, db.Stats().OpenConnections, failed
}

func readSome(rows *sql.Rows, from, count int) error {
	for n := 0; n < count; n++ {
		if !rows.Next() {
			if err := rows.Err(); err != nil {
				return err
			}
			return fmt.Errorf("row %d is missing", n+1)
		}
		var id int
		var v string
		if err := rows.Scan(&id, &v); err != nil {
			return err
		}
		if id != from+n {
			return fmt.Errorf("row %d has the id %d instead of %d", n+1, id, from+n)
		}
	}
	return nil
}

func code(err error) uint16 {
	fmt.Fprintln(os.Stderr, "leak:", err)
	if refused, ok := err.(*mysql.MySQLError); ok {
		return refused.Number
	}
	return 0
}

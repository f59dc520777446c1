// The shop with database/sql: a limited pool whose connections live for a while, texts and prepared statements,
// transactions that are rolled back unless they were committed, rows that are closed.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
)

const pause = 150 * time.Millisecond // between two requests of a worker, on average

type plan struct {
	Port                 int
	User, Password       string
	Seconds              float64
	Connections, Workers int
	Phases               []struct {
		Do      string
		Seconds float64
	}
}

type shop struct {
	db                           *sql.DB
	product                      *sql.Stmt
	statements, requests, errors int64
}

func main() {
	var plan plan
	must(json.Unmarshal([]byte(os.Args[1]), &plan))
	rand.Seed(time.Now().UnixNano())
	config := mysql.NewConfig()
	config.User, config.Passwd, config.DBName = plan.User, plan.Password, "test"
	config.Net, config.Addr = "tcp", fmt.Sprintf("127.0.0.1:%d", plan.Port)
	db, err := sql.Open("mysql", config.FormatDSN())
	must(err)
	db.SetMaxOpenConns(plan.Connections)
	db.SetMaxIdleConns(plan.Connections - 5)
	db.SetConnMaxLifetime(40 * time.Second)
	one := &shop{db: db}

	over := make(chan struct{})
	go func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Second):
				one.say(false)
			}
		}
	}()
	end := time.Now().Add(seconds(plan.Seconds))
	for time.Now().Before(end) {
		for _, phase := range plan.Phases {
			until := time.Now().Add(seconds(phase.Seconds))
			if until.After(end) {
				until = end
			}
			switch phase.Do {
			case "burst":
				together(plan.Connections, func() { one.attempt(one.short) })
			case "work":
				if one.product == nil {
					one.product, err = db.Prepare("SELECT name, price FROM shop_product WHERE id = ?")
					must(err)
				}
				together(plan.Workers, func() { one.serve(until) })
			default:
				time.Sleep(time.Until(until))
			}
		}
	}
	close(over)
	one.say(true)
	io.Copy(io.Discard, os.Stdin)
	db.Close()
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func seconds(value float64) time.Duration { return time.Duration(value * float64(time.Second)) }

func together(count int, act func()) {
	var all sync.WaitGroup
	for i := 0; i < count; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			act()
		}()
	}
	all.Wait()
}

func (s *shop) say(finished bool) {
	fmt.Printf("{\"statements\": %d, \"requests\": %d, \"errors\": %d, \"finished\": %t}\n",
		atomic.LoadInt64(&s.statements), atomic.LoadInt64(&s.requests), atomic.LoadInt64(&s.errors), finished)
}

func (s *shop) serve(until time.Time) {
	for time.Now().Before(until) {
		switch at := rand.Float64() * 100; {
		case at < 70:
			s.attempt(s.page)
		case at < 99:
			s.attempt(s.order)
		case at < 99.5:
			s.attempt(s.report)
		default:
			s.attempt(s.export)
		}
		length := time.Duration(rand.ExpFloat64() * float64(pause))
		if length > time.Second {
			length = time.Second
		}
		time.Sleep(length)
	}
}

func (s *shop) attempt(act func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := act(ctx); err != nil {
		atomic.AddInt64(&s.errors, 1)
		fmt.Fprintln(os.Stderr, err)
		return
	}
	atomic.AddInt64(&s.requests, 1)
}

func (s *shop) count() { atomic.AddInt64(&s.statements, 1) }

func (s *shop) short(ctx context.Context) error {
	s.count()
	var name string
	return s.db.QueryRowContext(ctx, "SELECT name FROM shop_product WHERE id = ?", 7).Scan(&name)
}

func (s *shop) page(ctx context.Context) error {
	customer := 1 + rand.Intn(1000)
	s.count()
	var name string
	var points int
	one := s.db.QueryRowContext(ctx, fmt.Sprintf("SELECT name, points FROM shop_customer WHERE id = %d", customer))
	if err := one.Scan(&name, &points); err != nil {
		return err
	}
	wanted, err := s.recent(ctx, customer)
	if err != nil {
		return err
	}
	for _, id := range wanted {
		s.count()
		var price int
		if err := s.product.QueryRowContext(ctx, id).Scan(&name, &price); err != nil {
			return err
		}
	}
	return nil
}

func (s *shop) recent(ctx context.Context, customer int) (found []int, err error) {
	s.count()
	text := "SELECT product_id FROM shop_order WHERE customer_id = ? ORDER BY id DESC LIMIT 3"
	rows, err := s.db.QueryContext(ctx, text, customer)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		found = append(found, id)
	}
	return found, rows.Err()
}

func (s *shop) order(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	customer, product, amount := 1+rand.Intn(1000), 1+rand.Intn(200), 1+rand.Intn(3)
	s.count()
	var points int
	one := tx.QueryRowContext(ctx, "SELECT points FROM shop_customer WHERE id = ? FOR UPDATE", customer)
	if err := one.Scan(&points); err != nil {
		return err
	}
	s.count()
	text := "INSERT INTO shop_order (customer_id, product_id, amount, note) VALUES (?, ?, ?, ?)"
	if _, err := tx.ExecContext(ctx, text, customer, product, amount, "from a goroutine"); err != nil {
		return err
	}
	time.Sleep(2 * time.Millisecond)
	s.count()
	if _, err := tx.ExecContext(ctx, "UPDATE shop_product SET stock = stock - ? WHERE id = ?", amount, product); err != nil {
		return err
	}
	s.count()
	text = fmt.Sprintf("UPDATE shop_customer SET points = %d WHERE id = %d", points+amount, customer)
	if _, err := tx.ExecContext(ctx, text); err != nil {
		return err
	}
	if rand.Float64() < 0.05 {
		return nil // rolled back
	}
	return tx.Commit()
}

func (s *shop) report(ctx context.Context) error {
	s.count()
	var count, sum, slept int
	one := s.db.QueryRowContext(ctx, "SELECT COUNT(*), SUM(amount), SLEEP(?) FROM shop_order", 1+rand.Float64()*0.8)
	return one.Scan(&count, &sum, &slept)
}

func (s *shop) export(ctx context.Context) error {
	s.count()
	rows, err := s.db.QueryContext(ctx, "SELECT id, note FROM shop_order LIMIT 5000")
	if err != nil {
		return err
	}
	defer rows.Close()
	read := 0
	for rows.Next() {
		var id int64
		var note string
		if err := rows.Scan(&id, &note); err != nil {
			return err
		}
		read++
	}
	if read != 5000 {
		return fmt.Errorf("%d rows: %v", read, rows.Err())
	}
	return rows.Err()
}

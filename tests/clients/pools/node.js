// The shop with mysql2: a pool, texts and prepared statements, transactions.
'use strict';
const mysql = require('mysql2/promise');

const plan = JSON.parse(process.argv[2]);
const counts = { statements: 0, requests: 0, errors: 0 };
const PAUSE = 150; // ms between two requests of a worker, on average

const pool = mysql.createPool({
  host: '127.0.0.1',
  port: plan.port,
  user: plan.user,
  password: plan.password,
  database: 'test',
  connectionLimit: plan.connections,
  maxIdle: plan.connections - 5,
  idleTimeout: 30000,
  enableKeepAlive: true,
  connectAttributes: { program_name: 'shop-mysql2' },
});

const number = (most) => 1 + Math.floor(Math.random() * most);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));

// `where` is the pool or one connection
async function run(where, how, text, values) {
  counts.statements += 1;
  const [result] = await where[how](text, values);
  return result;
}

const short = () => run(pool, 'query', 'SELECT name FROM shop_product WHERE id = ?', [7]);

async function page() {
  const customer = number(1000);
  const [orders] = await Promise.all([
    run(pool, 'execute', 'SELECT product_id, amount FROM shop_order WHERE customer_id = ? ORDER BY id DESC LIMIT 10', [customer]),
    run(pool, 'query', 'SELECT name, points FROM shop_customer WHERE id = ?', [customer]),
  ]);
  for (const order of orders.slice(0, 2)) {
    await run(pool, 'execute', 'SELECT name, price FROM shop_product WHERE id = ?', [order.product_id]);
  }
}

async function order() {
  const connection = await pool.getConnection();
  try {
    await connection.beginTransaction();
    const customer = number(1000);
    const amount = number(3);
    await run(connection, 'execute', 'SELECT points FROM shop_customer WHERE id = ? FOR UPDATE', [customer]);
    const product = number(200);
    const values = [customer, product, amount, 'from a pool'];
    await run(connection, 'execute', 'INSERT INTO shop_order (customer_id, product_id, amount, note) VALUES (?, ?, ?, ?)', values);
    await wait(2);
    await run(connection, 'query', 'UPDATE shop_product SET stock = stock - ? WHERE id = ?', [amount, product]);
    await run(connection, 'execute', 'UPDATE shop_customer SET points = points + ? WHERE id = ?', [amount, customer]);
    if (Math.random() < 0.05) await connection.rollback();
    else await connection.commit();
  } catch (error) {
    await connection.rollback();
    throw error;
  } finally {
    connection.release();
  }
}

const report = () => run(pool, 'query', 'SELECT COUNT(*), SUM(amount), SLEEP(?) FROM shop_order', [1 + Math.random() * 0.8]);

async function exportAll() {
  const connection = await pool.getConnection();
  try {
    counts.statements += 1;
    const rows = connection.connection.query('SELECT id, note FROM shop_order LIMIT 5000').stream();
    let read = 0;
    for await (const row of rows) read += row.id ? 1 : 0;
    if (read !== 5000) throw new Error(`${read} rows`);
  } finally {
    connection.release();
  }
}

function chosen() {
  const at = Math.random() * 100;
  if (at < 70) return page;
  if (at < 99) return order;
  return at < 99.5 ? report : exportAll;
}

async function attempt(act) {
  try {
    await act();
    counts.requests += 1;
  } catch (error) {
    counts.errors += 1;
    console.error(error);
  }
}

async function serve(until) {
  while (Date.now() < until) {
    await attempt(chosen());
    await wait(Math.min(-Math.log(1 - Math.random()) * PAUSE, 1000));
  }
}

const say = (finished) => console.log(JSON.stringify({ ...counts, finished }));

(async () => {
  const writer = setInterval(() => say(false), 1000);
  const end = Date.now() + plan.seconds * 1000;
  while (Date.now() < end) {
    for (const phase of plan.phases) {
      const until = Math.min(end, Date.now() + phase.seconds * 1000);
      if (phase.do === 'burst') await Promise.all(Array.from({ length: plan.connections }, () => attempt(short)));
      else if (phase.do === 'work') await Promise.all(Array.from({ length: plan.workers }, () => serve(until)));
      else await wait(until - Date.now());
    }
  }
  clearInterval(writer);
  say(true);
  process.stdin.resume().on('end', () => pool.end());
})();

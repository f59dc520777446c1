// Logs in with the drivers of npm; see run.py for what goes in and comes out.
'use strict';
const fs = require('fs');

const connect = {
  async mysql2(options) {
    const connection = await require('mysql2/promise').createConnection(options);
    const [[row]] = await connection.query('SELECT CURRENT_USER() AS who');
    await connection.end();
    return row.who;
  },
  mysql(options) {
    return new Promise((resolve, reject) => {
      const connection = require('mysql').createConnection(options);
      connection.connect((failed) => {
        if (failed) return reject(failed);
        connection.query('SELECT CURRENT_USER() AS who', (error, rows) => {
          connection.destroy();
          return error ? reject(error) : resolve(rows[0].who);
        });
      });
    });
  },
  async mariadb(options) {
    const connection = await require('mariadb').createConnection(options);
    const [row] = await connection.query('SELECT CURRENT_USER() AS who');
    await connection.end();
    return row.who;
  },
};

(async () => {
  for (const cell of JSON.parse(fs.readFileSync(0))) {
    const where = cell.socket ? { socketPath: cell.socket } : { host: '127.0.0.1', port: cell.port };
    const tls = cell.tls ? { ssl: { rejectUnauthorized: false } } : {};
    let said;
    try {
      said = { who: await connect[cell.client.replace('npm ', '')]({ ...where, ...tls, user: cell.user, password: cell.password, ...cell.setting }) };
    } catch (error) {
      said = { error: String(error.message) };
    }
    console.log(JSON.stringify({ id: cell.id, ...said }));
  }
  process.exit(0);
})();

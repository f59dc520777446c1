-- Load that sysbench has no script for, on the table that its oltp_* scripts prepare:
--
--   --statement=unique    a SELECT of 331 bytes as an ORM writes it, whose literals differ every time
--   --statement=email     the same with an @ in a literal, for which a pooler has to look twice
--   --statement=list      a SELECT of 11 KB: an IN list of 999 integers, other ones every time (MariaDB rewrites longer
--                         lists into a join, and the server would be measured)
--   --statement=state     a point select by clients that are all in one session state, which is not that of a login
--   --statement=states    the same by clients that are in ten session states, one after the other
--   --statement=states_prepared  the same with a prepared statement
--   --statement=connect   connect, one short SELECT, quit

sysbench.cmdline.options = {
   statement = {"unique, email, list, state, states, states_prepared or connect", "unique"},
   table_size = {"Rows of the table", 10000}
}

local UNIQUE = "SELECT `sbtest1`.`id`, `sbtest1`.`k`, `sbtest1`.`c`, `sbtest1`.`pad` FROM `sbtest1` "
   .. "WHERE (`sbtest1`.`id` = %d AND `sbtest1`.`k` < %d AND NOT (`sbtest1`.`c` = 'customer-%d%sexample.com') "
   .. "AND NOT (`sbtest1`.`pad` IN ('SKU-%d', 'it''s one')) AND `sbtest1`.`pad` IS NOT NULL) "
   .. "ORDER BY `sbtest1`.`id` ASC LIMIT 21"
local LIST = "SELECT `id`, `k`, `c` FROM `sbtest1` WHERE `id` = %d AND `k` NOT IN (%s%d)"
local LISTED, STOCK = 998, 4000 -- literals taken at once from a stock of so many, and one of the statement's own

local POINT = "SELECT c FROM test.sbtest1 WHERE id=" -- the schema is written down: some clients are in another one
local STATES = {
   {},
   {"SET time_zone='+02:00'"},
   {"SET sql_mode='ANSI_QUOTES'"},
   {"USE test2"},
   {"SET NAMES latin1"},
   {"SET NAMES utf8mb4 COLLATE utf8mb4_bin", "SET time_zone='-05:00'"},
   {"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"},
   {"SET foreign_key_checks=0, unique_checks=0"},
   {"USE test2", "SET sql_mode='', group_concat_max_len=100000"},
   {"SET lc_time_names='de_DE'"},
}

local driver, connection, stock, prepared, parameter

local function id()
   return sysbench.rand.uniform(1000, math.min(9999, sysbench.opt.table_size))
end

local function nine_digits()
   return sysbench.rand.uniform(100000000, 999999999)
end

local function ten_digits()
   return sysbench.rand.uniform(1000000000, 2147483647)
end

local run = {}

local function unique(sign)
   local text = UNIQUE:format(id(), nine_digits(), nine_digits(), sign, nine_digits())
   assert(#text == 331)
   connection:query(text)
end

function run.unique()
   unique("-")
end

function run.email()
   unique("@")
end

function run.list()
   local from = 11 * sysbench.rand.uniform(0, STOCK - LISTED) -- ten digits and a comma each
   connection:query(LIST:format(id(), stock:sub(from + 1, from + 11 * LISTED), ten_digits()))
end

function run.state()
   connection:query(POINT .. id())
end

run.states = run.state

function run.states_prepared()
   parameter:set(id())
   prepared:execute()
end

function run.connect()
   local one = driver:connect()
   one:query("SELECT 1")
   one:disconnect()
end

function thread_init()
   driver = sysbench.sql.driver()
   event = run[sysbench.opt.statement]
   if event ~= run.connect then
      connection = driver:connect()
   end
   if sysbench.opt.statement:find("^state") then
      local chosen = sysbench.opt.statement == "state" and 1 or sysbench.tid % #STATES
      for _, statement in ipairs(STATES[chosen + 1]) do
         connection:query(statement)
      end
   end
   if event == run.states_prepared then
      prepared = connection:prepare(POINT .. "?")
      parameter = prepared:bind_create(sysbench.sql.type.INT)
      prepared:bind_param(parameter)
   end
   if event == run.list then
      local literals = {}
      for i = 1, STOCK do
         literals[i] = ten_digits() .. ","
      end
      stock = table.concat(literals)
   end
end

function event() -- looked for before thread_init puts the wanted one in its place
end

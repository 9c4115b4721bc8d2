-- The scripts run in Redis and Valkey, which are Lua 5.1 with these.
std = 'lua51'
read_globals = { 'ARGV', 'KEYS', 'bit', 'cjson', 'cmsgpack', 'redis', 'struct' }
max_line_length = 135
-- short.lua is put before scripts that need it.
files['**/short.lua'] = { ignore = { '211' } }
files['**/news.lua'] = { read_globals = { 'teller' } }
files['**/parked.lua'] = { read_globals = { 'teller' } }

-- Changes limits while the family runs.
-- ARGV: 3... three per change: "conf" or "limits", field, value; a value of "-" removes the field, so that the settings'
--   limit counts again ("" in conf and "||" in limits say that there is none).
-- Returns the number of changes.
redis.call('DEL', mark)
for i = 3, #ARGV, 3 do
  local key = ARGV[i] == 'conf' and conf or limits
  if ARGV[i + 2] == '-' then
    redis.call('HDEL', key, ARGV[i + 1])
  else
    redis.call('HSET', key, ARGV[i + 1], ARGV[i + 2])
  end
end
for _, lane in ipairs(redis.call('ZRANGE', lanes, 0, 4999)) do redis.call('ZADD', lanes, num(now), lane) end
-- Sleeping workers have to look, whatever can be claimed.
set_suspects()
redis.call('ZADD', mark, 0, '1')
return (#ARGV - 2) / 3

-- Puts values under a new key in the place of those under an old one, where nothing has changed them meanwhile.
-- ARGV: 3... five per value: where ("job", "result", "receipts", "history", "logs", "progress", or "children:" and the id
--   of a job that keeps this one's result), id, old, new, and of a job the need it is parked for if nobody here has its key
--   (else "")
-- Returns for each 1, or 0: it has changed.
local hashes = { receipts = receipts, history = history, logs = logs, progress = progress }
local done, changed = {}, {}

-- Whoever could not read it may try it again.
local function unpark_one(id, need, record)
  local at, ready = tonumber(redis.call('ZSCORE', queue, id) or nil), redis.call('ZSCORE', parked_key(need), id)
  if not at or at < PARKED or not ready then return end
  redis.call('ZREM', parked_key(need), id)
  if redis.call('EXISTS', parked_key(need)) == 0 then redis.call('ZREM', parked, need) end
  if tonumber(ready) < 0 then
    redis.call('ZADD', queue, ready, id)
  else
    local level = header(record)
    if not level or level < 1 then level = default_level() end
    place(id, math.min(level, 10), record)
  end
end

redis.call('DEL', mark)
for i = 3, #ARGV, 5 do
  local where, id, old, new, need = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local parent = string.match(where, '^children:(.*)$')
  local hash, key = parent and children_key(parent) or hashes[where], 'arq:' .. where .. ':' .. id
  local same = (hash and redis.call('HGET', hash, id) or not hash and get(key)) == old
  if same and hash then
    redis.call('HSET', hash, id, new)
  elseif same then
    redis.call('SET', key, new, 'KEEPTTL')
    if need ~= '' then unpark_one(id, need, new) end
  end
  done[#done + 1] = same and 1 or 0
  changed[#changed + 1] = parent or id
end
weigh(changed)
set_mark()
return done

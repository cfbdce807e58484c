-- Put before the ends: the bytes a family takes, counted only where it has a budget (conf "max_bytes", an operator's
-- "own:max_bytes" wins; "" is none).
--
--   sizes   id -> bytes of all there is of a job, as Redis holds it
--   clock   "bytes": their sum. Both are only ever written here, together, so that the sum cannot drift from its parts;
--           what a part has become unnoticed (an expiry, a stock producer) is found by `recount` (lua/retention.lua).
local sizes = prefix .. 'sizes'
local weigh

do
  -- Beside its keys a job takes its places in the queue or an index, and in `sizes`; an entry in a hash its name.
  local PLACES, ENTRY = 220, 80

  local function bytes_of(key)
    local bytes = redis.pcall('MEMORY', 'USAGE', key)
    -- A user without the right to ask gets an estimate.
    if type(bytes) == 'table' then
      bytes = redis.pcall('STRLEN', key)
      bytes = type(bytes) == 'number' and bytes > 0 and bytes + 100
    end
    return bytes or 0
  end

  local function size_of(id, hashes, flowing)
    local bytes = bytes_of('arq:job:' .. id) + bytes_of('arq:result:' .. id)
    if flowing then bytes = bytes + bytes_of(children_key(id)) + bytes_of(pending_key(id)) end
    for _, hash in ipairs(hashes) do
      local length = redis.call('HSTRLEN', hash, id)
      if length > 0 then bytes = bytes + length + ENTRY end
    end
    return bytes > 0 and bytes + PLACES or 0
  end

  -- Counts jobs anew after this call has changed them; called with whatever it may have changed, as often as it likes.
  function weigh(ids)
    if #ids == 0 or not byte_budget() then return end
    local hashes = {}
    for _, hash in ipairs({ history, receipts, logs }) do
      if redis.call('EXISTS', hash) == 1 then hashes[#hashes + 1] = hash end
    end
    local flowing = redis.call('EXISTS', flows) == 1
    local before = redis.call('HMGET', sizes, unpack(ids))
    local more, set, gone, seen = 0, {}, {}, {}
    for i, id in ipairs(ids) do
      local was = tonumber(before[i] or 0)
      local bytes = seen[id] and was or size_of(id, hashes, flowing)
      seen[id] = true
      if bytes ~= was then
        more = more + bytes - was
        if bytes == 0 then
          gone[#gone + 1] = id
        else
          set[#set + 1] = id
          set[#set + 1] = num(bytes)
        end
      end
    end
    if #gone > 0 then redis.call('HDEL', sizes, unpack(gone)) end
    if #set > 0 then redis.call('HSET', sizes, unpack(set)) end
    if more ~= 0 then redis.call('HINCRBY', clock, 'bytes', num(more)) end
  end
end

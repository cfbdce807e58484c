-- What scripts need for one plain job: put before those that mostly have just that (daemon/lua/__init__.py FIRST), and
-- before all that they otherwise use, since to make that would take longer than such a call. They look first; what finds
-- anything unusual has written nothing yet and goes on below, and what it writes is what that would have written.

-- ms, and the same as us.
local function time_now()
  if ARGV[2] ~= '' then return tonumber(ARGV[2]), ARGV[2] * 1000 end
  local t = redis.call('TIME')
  local us = t[1] * 1000000 + t[2]
  return math.floor(us / 1000), us
end

local function whole(x) return string.format('%d', x) end

-- Bytes written to the events with one more, before it is; nil where another part of the stream would begin, which has to
-- be cut then (lua/events.lua). `budget` is conf "events".
local function written_with(event, written, budget)
  budget, written = tonumber(budget or 2000000), tonumber(written or 0)
  if budget == 0 then return written end
  local size = #event + EVENT_OVERHEAD
  if math.floor(written * PARTS / budget) == math.floor((written + size) * PARTS / budget) then return written + size end
end

local function write_event(event, now, written)
  local id = redis.pcall('XADD', ARGV[1] .. 'events', whole(now) .. '-' .. whole(written), 'e', event)
  -- The clock went back: behind the last entry then.
  if type(id) == 'table' then redis.pcall('XADD', ARGV[1] .. 'events', '*', 'e', event) end
end

-- Whether this minute is counted in already; otherwise the one before has to be added to its hour (lua/events.lua).
local function minute_goes_on(minute, now) return tonumber(minute or nil) == math.floor(now / 60000) end

-- Adds amounts to fields of this minute's statistics; without amounts one more of a field.
local function count_single(now, fields, amounts)
  local key = ARGV[1] .. 'stats:m:' .. whole(math.floor(now / 60000))
  if not amounts then
    redis.pcall('HINCRBY', key, fields, 1)
    return
  end
  local sums = redis.pcall('HMGET', key, unpack(fields))
  if sums.err then return end
  local values = {}
  for i, field in ipairs(fields) do
    values[2 * i - 1], values[2 * i] = field, whole((tonumber(sums[i] or 0) or 0) + amounts[i])
  end
  redis.call('HSET', key, unpack(values))
end

-- The process with this session is told the job's result.
local function add_waiter(id, session)
  local sessions = redis.call('HGET', waiters, id)
  if not sessions then
    redis.call('HSET', waiters, id, session)
  elseif not string.find(sessions, session, 1, true) then
    redis.call('HSET', waiters, id, sessions .. ' ' .. session)
  end
end

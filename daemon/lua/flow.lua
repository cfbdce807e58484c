-- Makes the jobs of a flow: in the slot of its root "stage" and "commit", in the slots of the others "make".
-- ARGV: 3 what, 4 the flow's token, then
--   "stage"   5 how many definitions stand there before, 6... definitions. What is staged and never committed is gone after
--             an hour. Returns how many there are, -1 when those before are not there (any more).
--   "commit"  5 the names of all its families, 6 how many definitions there are with those given here, then of the root:
--             7 id, 8 level (0: the family's), 9 timeout ms, 10 expires ms from now, 11 tail, 12 ids of its children with
--             tabs between; 13... definitions. All or nothing.
--             Returns the outbox's entry, 1 when this was done before, 0 when a job with this id exists, -1 when staged
--             definitions are gone, {"full", ms} where the family's budget of bytes has no room for it, as in enqueue.lua.
--   "make"    5 when the definitions were read (ms, by the clock of the slot they came from), then nine per job:
--             id, level, "now" | "in" | "at", ms, timeout ms, expires ms, tail ("": a job that should be there), edges (lines
--             as in parents), ids of its children with tabs between
--             Returns {"ok", "1" if it wrote to the outbox} or {"stale"}: read them again.
-- Repeating a call changes nothing.
local op, token = ARGV[3], ARGV[4]
local defs, made = prefix .. 'defs:' .. token, prefix .. 'made:' .. token
-- A deliverer that was stopped for longer has to look again; what was made is known for longer than that.
local STALE = 3600000

local function record_of(level, timeout, expires, tail)
  return new_header(level, stamp_of(now), tonumber(timeout), expires == '0' and 0 or now + expires) .. tail
end

local function checked_level(level)
  return level == '0' and default_level() or tonumber(level)
end

local enqueued = 0
local function tell_enqueued(id, tail, note)
  local name = string.match(tail, '^([^\t\n]*)\t') or ''
  tell('enqueued', id, note and name .. '\t\t\t' .. note or name)
  enqueued = enqueued + 1
end

-- Lets a job wait for its children. What an earlier use of its id left does not count.
local function block(id, children, tail)
  local ids = {}
  for child in string.gmatch(children, '[^\t]+') do ids[#ids + 1] = child end
  redis.call('UNLINK', pending_key(id), children_key(id))
  for i = 1, #ids, 4000 do
    redis.call('SADD', pending_key(id), unpack(ids, i, math.min(i + 3999, #ids)))
  end
  redis.call('HSET', flows, id, 'w ' .. token)
  redis.call('ZADD', queue, num(BLOCKED + now), id)
  tell_enqueued(id, tail, 'after ' .. #ids .. (#ids == 1 and ' other' or ' others'))
end

local function append(first)
  for i = first, #ARGV, 4000 do
    redis.call('RPUSH', defs, unpack(ARGV, i, math.min(i + 3999, #ARGV)))
  end
end

local function stage()
  local before, count = tonumber(ARGV[5]), #ARGV - 5
  local length = redis.call('LLEN', defs)
  -- The reply of this very call was lost, or it comes when all is done.
  if length == before + count or redis.call('EXISTS', made) == 1 then return length end
  if length ~= before then return -1 end
  append(6)
  redis.call('PEXPIRE', defs, 3600000)
  return before + count
end

local function commit()
  local id, level = ARGV[7], checked_level(ARGV[8])
  -- Even if the whole flow has run and been forgotten since.
  if redis.call('SISMEMBER', made, id) == 1 then return 1 end
  if redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 then
    redis.call('UNLINK', defs)
    return 0
  end
  if redis.call('LLEN', defs) + #ARGV - 12 ~= tonumber(ARGV[6]) then return -1 end
  local bytes = 0
  for i = 11, #ARGV do bytes = bytes + #ARGV[i] end
  local wait = no_room(bytes)
  if wait then return { 'full', wait } end
  -- RPUSH and SET come first: a full server refuses them before anything is written.
  append(13)
  redis.call('SET', 'arq:job:' .. id, record_of(level, ARGV[9], ARGV[10], ARGV[11]))
  redis.call('SADD', made, id)
  redis.call('PERSIST', defs)
  block(id, ARGV[12], ARGV[11])
  weigh({ id })
  return redis.call('XADD', outbox, '*', 'create', token, 'families', ARGV[5])
end

-- How a job that is not in the queue has ended, and its result.
local function ended_as(id)
  local result = get('arq:result:' .. id)
  if redis.call('ZSCORE', dead, id) then return 'b', result or '' end
  if not result then return 'm', '' end
  for kind, index in pairs({ c = completed, a = aborted, e = expired }) do
    if redis.call('ZSCORE', index, id) then return kind, result end
  end
  return 'c', result
end

-- Another job waits for one that is there; for one that is not any more, the end is told at once.
local function attach(id, edges, reports)
  local kind, result
  if not redis.call('ZSCORE', queue, id) then
    kind, result = ended_as(id)
    add_report(reports, id, kind, edges, result)
  end
  if not kind or kind == 'b' then
    local known = redis.call('HGET', parents, id)
    redis.call('HSET', parents, id, known and known .. '\n' .. edges or edges)
  end
end

local function first_delayed()
  local first = redis.call('ZRANGEBYSCORE', queue, num(now + 1), '(' .. num(HELD), 'WITHSCORES', 'LIMIT', 0, 1)
  return tonumber(first[2]) or HELD
end

local function make()
  if now - ARGV[5] > STALE then return { 'stale' } end
  local soonest = first_delayed()
  local reports, scores, ready, ids = {}, {}, {}, {}
  for i = 6, #ARGV, 9 do
    local id, level, when, ms = ARGV[i], checked_level(ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3])
    local tail, edges, children = ARGV[i + 6], ARGV[i + 7], ARGV[i + 8]
    if redis.call('SADD', made, tail == '' and edges .. '\t' .. id or id) == 1 then
      if tail == '' or redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 then
        attach(id, edges, reports)
      else
        local due = when == 'in' and now + ms or when == 'at' and ms or now
        redis.call('SET', 'arq:job:' .. id, record_of(level, ARGV[i + 4], ARGV[i + 5], tail))
        ids[#ids + 1] = id
        if edges ~= '' then redis.call('HSET', parents, id, edges) end
        if children ~= '' then
          block(id, children, tail)
        elseif due > now then
          later(id, due, level)
          tell_enqueued(id, tail, 'for ' .. math.ceil((due - now) / 1000) .. ' s later')
        else
          tell_enqueued(id, tail)
          ready[#ready + 1] = { id, level, string.match(tail, '^[^\t\n]*\t([^\t\n]*)') or '' }
        end
      end
    end
  end
  give_places(ready, scores)
  if #scores > 0 then redis.call('ZADD', queue, unpack(scores)) end
  send(reports)
  weigh(ids)
  -- Workers sleep until the next job they knew of: wake one when an earlier one came.
  if not set_mark() and first_delayed() < soonest then redis.call('ZADD', mark, 0, '1') end
  return { 'ok', sent and '1' or '0' }
end

local reply
if op == 'stage' then
  reply = stage()
elseif op == 'commit' then
  reply = commit()
else
  reply = make()
end
write_events()
if enqueued > 0 then count_up({ 'enqueued', num(enqueued) }, 1, 2) end
return reply

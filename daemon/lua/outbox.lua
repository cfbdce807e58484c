-- What a courier does with outboxes; see lua/flows.lua for what stands in them.
-- ARGV: 3 what, then
--   "read"  4 the courier, 5 for how long it has the outbox to itself (ms), 6 the entry to go on after ("" to begin)
--           Returns {ms until the outbox is free} when another courier has it, else {0, entries}: at most 16, about 1 MB.
--           Without entries it is free again.
--   "defs"  4 a flow's token, 5 at most so many. Returns {now, definitions}, about 1 MB.
--   "trim"  4 a flow's token, 5 the number of the first definition that was delivered, 6 how many were. Returns how many are
--           left. A definition begins with "[<its number>,".
--   "seal"  4 a flow's token: all of it has been made. Returns 1.
--   "ack"   4... entries that every slot has acknowledged. Returns how many are left.
--   "end"   nine per ended child: parent, child, token, rule, index, outbox entry that tells it, kind, text, its result
--           Returns "1" if it wrote to the outbox of its own slot, else "0".
-- Repeating a call changes nothing.
local op = ARGV[3]
local SEALED = 7200000
local MOST = 1048576

local function read()
  local key = prefix .. 'courier'
  local who = get(key)
  if who and who ~= ARGV[4] then return { math.max(1, redis.call('PTTL', key)) } end
  local found = redis.call('XRANGE', outbox, ARGV[6] == '' and '-' or '(' .. ARGV[6], '+', 'COUNT', 16)
  if #found == 0 then
    -- What is added later finds it free.
    redis.call('DEL', key)
    return { 0, {} }
  end
  redis.call('DEL', key)
  redis.call('SET', key, ARGV[4], 'PX', ARGV[5])
  local entries, bytes = {}, 0
  for i, entry in ipairs(found) do
    for _, value in ipairs(entry[2]) do bytes = bytes + #value end
    if i > 1 and bytes > MOST then break end
    entries[i] = entry
  end
  return { 0, entries }
end

local function read_defs()
  local found = redis.call('LRANGE', prefix .. 'defs:' .. ARGV[4], 0, ARGV[5] - 1)
  local some, bytes = {}, 0
  for i, definition in ipairs(found) do
    bytes = bytes + #definition
    if i > 1 and bytes > MOST then break end
    some[i] = definition
  end
  return { num(now), some }
end

local function trim_defs()
  local key = prefix .. 'defs:' .. ARGV[4]
  local first = string.match(redis.call('LINDEX', key, 0) or '', '^%[(%d+),')
  -- Another courier may have been faster.
  if first == ARGV[5] then redis.call('LTRIM', key, ARGV[6], -1) end
  return redis.call('LLEN', key)
end

local function seal()
  redis.call('PEXPIRE', prefix .. 'made:' .. ARGV[4], SEALED)
  return 1
end

local function ack()
  redis.call('XDEL', outbox, unpack(ARGV, 4))
  local left = redis.call('XLEN', outbox)
  if left == 0 then redis.call('DEL', outbox) end
  return left
end

-- ---------------------------------------------------------------- ended children

-- What becomes of a parent that waits: "r" it runs, "f" it fails, "x" it is removed, nil: it goes on waiting.
local function decision(rule, failed, left)
  if failed and rule == 'fail' then return 'f' end
  if failed and rule == 'success' then return 'x' end
  if failed and (rule == 'continue' or rule == 'death') then return 'r' end
  if left == 0 then return rule == 'death' and 'x' or 'r' end
end

local function decide(id, token, how, text)
  local score = tonumber(redis.call('ZSCORE', queue, id) or nil)
  local waits = score and score >= BLOCKED and score < LANE
  if how == 'x' and waits then return finish({ { 'a', 0, '0', name_of(id), '', id, '' } }, 'removed') end
  redis.call('HSET', flows, id, how == 'f' and 'f ' .. token .. ' ' .. text or 'r ' .. token)
  if waits then
    local record = get('arq:job:' .. id)
    -- As if it was enqueued now: that it waited for others is not its queue's slowness.
    local level, _, timeout, deadline = header(record)
    if level then
      redis.call('SET', 'arq:job:' .. id, new_header(level, stamp_of(now), timeout, deadline) .. tail_of(record))
    end
    place(id, level_of(score, record), record)
    tell('unblocked', id, function_of(record))
  end
end

-- Two couriers may tell two ends of a child (it failed, was sent back and completed) in the wrong order.
local function newer(entry, told)
  local ms, n = string.match(entry, '^(%d+)%-(%d+)$')
  local told_ms, told_n = string.match(told, '^[^\t]*\t(%d+)%-(%d+)\t')
  if not told_ms then return true end
  ms, told_ms = tonumber(ms), tonumber(told_ms)
  return ms > told_ms or ms == told_ms and tonumber(n) >= tonumber(told_n)
end

local function end_child(id, child, token, rule, index, entry, kind, text, result)
  local state, of = string.match(redis.call('HGET', flows, id) or '', '^(%S) (%S+)')
  -- The parent is gone, or it is a later one of the same name.
  if of ~= token then return end
  local first = redis.call('SREM', pending_key(id), child) == 1
  local told = redis.call('HGET', children_key(id), child)
  -- A dead letter that was discarded has failed as before.
  if not told or kind ~= 'x' and newer(entry, told) then
    redis.call('HSET', children_key(id), child, index .. '\t' .. entry .. '\t' .. kind .. '\n' .. result)
    weigh({ id })
  end
  if not first or state ~= 'w' then return end
  local how = decision(rule, kind ~= 'c', redis.call('SCARD', pending_key(id)))
  if how then decide(id, token, how, text) end
end

local function end_children()
  redis.call('DEL', mark)
  for i = 4, #ARGV, 9 do end_child(unpack(ARGV, i, i + 8)) end
  set_mark()
  write_events()
  return sent and '1' or '0'
end

if op == 'read' then return read() end
if op == 'defs' then return read_defs() end
if op == 'trim' then return trim_defs() end
if op == 'seal' then return seal() end
if op == 'ack' then return ack() end
return end_children()

-- Permits of a limit that families share. It stands alone: families live in other slots, so a worker takes permits here
-- first and then claims no more jobs than it has.
-- KEYS: conf ("own:jobs" and "own:rate", "starts|period us", are an operator's limits, "" and "|" for none; "starts" is the
--   rate's window; "seen"), holders.
-- ARGV: 1 prefix "{limit:<name>}:", 2 "" or a test's clock in ms, 3 holder "<family>:<session>", 4 call number (-1: only
--   renew the lease), 5 lease ms, 6 its settings' limit "jobs|starts|period us", each may be empty,
--   7 jobs it runs, 8 permits of its last portion it has used, 9 "1" if it used them late, 10 permits wanted (-1: leave)
-- Returns {permits, ms until it should ask again, microseconds the permits are good for, "1" if the end of a job is what
--   it waits for}; {-1} for an older call than one seen; of a renewal {1}, or {0} if the holder is not known any more.
--
-- A holder is "n lease-end jobs permits good-until-us in-line-since-us asked-ms limit". Its `permits` (a portion) count
-- as started at the end of the time they are good for, until it tells how many it has used: a start is never counted
-- earlier than it can have been, so that no window ever has more starts than the limit.
local conf, holders, prefix, me, n = KEYS[1], KEYS[2], ARGV[1], ARGV[3], tonumber(ARGV[4])
local lease, spec, running, used = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local late, wanted = ARGV[9] == '1', tonumber(ARGV[10])
-- Who wants permits asks at least every second; a place in the line is lost by who does not.
local ASK_AGAIN, IN_LINE, GOOD_FOR = 1000, 2000, 100000
local LONGEST_LEASE = 3600000

local now_us
if ARGV[2] == '' then
  local t = redis.call('TIME')
  now_us = t[1] * 1000000 + t[2]
else
  now_us = ARGV[2] * 1000
end
local now = math.floor(now_us / 1000)

local function num(x) return string.format('%.17g', x) end
local function wake_key(holder) return prefix .. 'wake:' .. holder end

local function read(text)
  local found = { string.match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+)$') }
  if not found[8] then return nil end
  for i = 1, 7 do found[i] = tonumber(found[i]) end
  return {
    n = found[1], till = found[2], jobs = found[3], permits = found[4],
    good = math.min(found[5], now_us + GOOD_FOR), since = found[6], asked = found[7], spec = found[8],
  }
end

local function write(h, holder)
  local words = { num(h.n), num(h.till), h.jobs, h.permits, num(h.good), num(h.since), num(h.asked), h.spec }
  redis.call('HSET', holders, holder or me, table.concat(words, ' '))
end

local mine = read(redis.call('HGET', holders, me))
if n < 0 then
  -- A script whose first write frees memory runs through on a full server.
  redis.call('HDEL', holders, '')
  if not mine then return { 0 } end
  mine.till = now + lease
  write(mine)
  return { 1 }
end
if mine and n <= mine.n then return { -1 } end
redis.call('DEL', wake_key(me))

-- ---------------------------------------------------------------- who there is
local starts, others, elsewhere = {}, {}, 0
for us, count in string.gmatch(redis.call('HGET', conf, 'starts') or '', '(%d+):(%d+)') do
  starts[#starts + 1] = { tonumber(us), tonumber(count) }
end
local function started(us, count) starts[#starts + 1] = { us, count } end

local all = redis.call('HGETALL', holders)
for i = 1, #all, 2 do
  local name, h = all[i], read(all[i + 1])
  if h and h.till > now + LONGEST_LEASE then
    -- The clock was ahead: who died meanwhile would count until then.
    h.till = now + lease
    if name ~= me then write(h, name) end
  end
  if name == me then
    if not mine then redis.call('HDEL', holders, name) end
  elseif h and h.till >= now then
    h.name = name
    others[#others + 1] = h
    elsewhere = elsewhere + h.jobs
  else
    -- It died; what it had taken it may have used.
    if h and h.permits > 0 then started(h.good, h.permits) end
    redis.call('HDEL', holders, name)
    redis.call('DEL', wake_key(name))
  end
end
if mine and used > 0 then started(late and now_us or math.min(now_us, mine.good), math.min(used, mine.permits)) end

-- ---------------------------------------------------------------- what is allowed
-- The smallest of the limits that live holders were given; an operator's wins over all of them.
local jobs, count, per
local function consider(text)
  local j, c, p = string.match(text, '^(%d*)|(%d*)|(%d*)$')
  j, c, p = tonumber(j), tonumber(c), tonumber(p)
  if j and (not jobs or j < jobs) then jobs = j end
  if c and p and (not count or c * per < count * p) then count, per = c, p end
end
consider(spec)
for _, h in ipairs(others) do consider(h.spec) end
local own = redis.call('HMGET', conf, 'own:jobs', 'own:rate')
if own[1] then jobs = tonumber(own[1]) end
if own[2] then
  local c, p = string.match(own[2], '^(%d*)|(%d*)$')
  count, per = tonumber(c), tonumber(p)
end

-- Starts in the same 1/200 of the period share an entry at the later time: at most 201, and never a start too many.
local function tidy()
  table.sort(starts, function(a, b) return a[1] < b[1] end)
  local kept, total = {}, 0
  for _, entry in ipairs(count and starts or {}) do
    local last = kept[#kept]
    if entry[1] > now_us - per and entry[1] <= now_us then
      total = total + entry[2]
      if last and math.floor(last[1] * 200 / per) == math.floor(entry[1] * 200 / per) then
        last[1], last[2] = entry[1], last[2] + entry[2]
      else
        kept[#kept + 1] = entry
      end
    end
  end
  starts = kept
  return total
end

local good_for, room, free_jobs = GOOD_FOR, 1e15, 1e15
local total = tidy()
if count then
  good_for = math.min(GOOD_FOR, math.floor(per / 10))
  for _, h in ipairs(others) do
    if h.good > now_us - per then total = total + h.permits end
  end
  room = count - total
end
if jobs then free_jobs = jobs - elsewhere - running end
local was_full = jobs and mine and jobs - elsewhere - mine.jobs <= 0
local most = math.min(room, free_jobs)

-- ---------------------------------------------------------------- take
local in_line = mine and mine.since > 0 and mine.asked + IN_LINE >= now
local since = in_line and mine.since or now_us
local line, ahead = {}, 0
for _, h in ipairs(others) do
  if h.since > 0 and h.asked + IN_LINE >= now then
    line[#line + 1] = h
    if h.since < since then ahead = ahead + 1 end
  end
end
-- A tenth of the limit at most, so that nobody holds much of it; one is kept for each who waits longer.
local portion = math.max(1, math.ceil(math.min(count or 1e15, jobs or 1e15) / 10))
local permits = math.max(0, math.min(wanted, portion, most - ahead))

-- When so many more of the counted starts have left the window; a portion may have been used at once.
local function after(more)
  local list = {}
  for _, entry in ipairs(starts) do list[#list + 1] = entry end
  for _, h in ipairs(others) do
    local early = h.good - good_for
    if h.permits > 0 then list[#list + 1] = { early + per > now_us and early or h.good, h.permits } end
  end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  for _, entry in ipairs(list) do
    more = more - entry[2]
    if more <= 0 then return math.max(1, math.ceil((entry[1] + per - now_us) / 1000)) end
  end
  return ASK_AGAIN
end

local wait, by_jobs = 0, '0'
if wanted > 0 and permits == 0 then
  wait = ASK_AGAIN
  if free_jobs - ahead <= 0 then
    by_jobs = '1'
  elseif room - ahead <= 0 and count then
    wait = math.min(wait, after(ahead + 1 - room))
  end
end

-- ---------------------------------------------------------------- write
if wanted < 0 then
  redis.call('HDEL', holders, me)
else
  if not mine then redis.call('HSETNX', conf, 'seen', num(now)) end
  write({
    n = n, till = now + lease, jobs = running + permits, permits = count and permits or 0, good = now_us + good_for,
    since = wait > 0 and since or 0, asked = now, spec = spec,
  })
end
local parts = {}
for i, entry in ipairs(starts) do parts[i] = num(entry[1]) .. ':' .. entry[2] end
if #parts > 0 then
  redis.call('HSET', conf, 'starts', table.concat(parts, ' '))
else
  redis.call('HDEL', conf, 'starts')
end

-- Who waits longest is woken for what is left; also when jobs were all that it waited for, to hear when the rate allows.
local left = most - permits
if left <= 0 and was_full and free_jobs - permits > 0 then left = 1 end
table.sort(line, function(a, b) return a.since < b.since end)
for i = 1, math.min(left, #line) do
  redis.call('ZADD', wake_key(line[i].name), 0, '1')
  redis.call('PEXPIRE', wake_key(line[i].name), 5000)
end
return { permits, wait, good_for, by_jobs }

-- Put after the prelude: what a call tells the outside, events and statistics.
--
--   {f}:events          a stream, one entry for all events of a call: one field "e" of lines: a kind, a detail (function,
--                       try, run time in ms, note; tabs between, what is missing at the end left out) and the job's id
--                       ("" for the queue). Of neighbours that differ in the id alone the kind goes on with a tab, their
--                       number, a tab and what their ids begin with; the rest of each id follows. `told` of
--                       daemon/events.py reads it
--   {f}:stats:m:<n>     statistics of the nth minute since the epoch; {f}:stats:h:<n> of the nth hour: whole numbers by
--                       "<function>\31<what>" (daemon/statistics.py), and "enqueued". A minute is added to its hour when
--                       another one begins: clock "minute" is the one that has not been
--   conf                "events": bytes the stream may hold, 0 for none at all; "statistics": "0" for none
local TOLD = { c = 'completed', b = 'failed', a = 'aborted', e = 'expired', r = 'retrying', l = 'released', w = 'released',
  p = 'parked' }
-- What an entry takes beside its text.
local EVENT_OVERHEAD = 40
-- A full stream is some parts long, and loses one when it begins another.
local PARTS = 8
local tell, write_events, count_up, byte_budget, event_budget

do
  local events = prefix .. 'events'
  local budget, counts, max_bytes
  local lines, last, find = {}, 0, string.find
  -- Where the present run of neighbours begins, and what they have in common.
  local head, run_kind, run_detail = 0, nil, nil

  local function read_settings()
    local c = redis.call('HMGET', conf, 'events', 'statistics', 'max_bytes', 'own:max_bytes')
    budget, counts = tonumber(c[1] or nil) or 2000000, c[2] ~= '0'
    max_bytes = tonumber(c[4] or c[3] or nil)
  end

  -- Bytes the family may take (lua/bytes.lua), nil for any number, and those of them that its events may.
  function byte_budget()
    if not budget then read_settings() end
    return max_bytes
  end

  function event_budget()
    if not budget then read_settings() end
    return budget
  end

  -- What two ids begin with: in steps of eight, and then one by one.
  local function common(one, other)
    local byte, sub, same = string.byte, string.sub, 0
    while same + 8 <= #one and sub(one, same + 1, same + 8) == sub(other, same + 1, same + 8) do same = same + 8 end
    while same < #one and byte(one, same + 1) == byte(other, same + 1) do same = same + 1 end
    return sub(one, 1, same)
  end

  -- Ids of jobs that came together begin alike, and the stream holds what it is allowed to: what they have in common is told
  -- once, where they are new. A claim or an end would take the server 2 % longer for it: a string for each id.
  local function end_run()
    local first, sub = head + 2, string.sub
    if last <= first then return end
    if run_kind ~= 'enqueued' then
      lines[head] = run_kind .. '\t' .. last - head - 1
      return
    end
    local begin = common(lines[first], lines[last])
    for i = first + 1, last - 1 do
      if find(lines[i], begin, 1, true) ~= 1 then begin = common(begin, lines[i]) end
    end
    local rest = #begin + 1
    for i = first, last do lines[i] = sub(lines[i], rest) end
    lines[head] = run_kind .. '\t' .. last - head - 1 .. '\t' .. begin
  end

  -- Notes an event of this call. Nothing is joined here: strings are what a script mostly costs.
  function tell(kind, id, detail)
    -- A stock producer's id may hold anything.
    if find(id, '\n', 1, true) then id = string.gsub(id, '\n', ' ') end
    if kind == run_kind and detail == run_detail then
      last = last + 1
      lines[last] = id
      return
    end
    if not budget then read_settings() end
    if budget == 0 then return end
    end_run()
    head, run_kind, run_detail = last + 1, kind, detail
    lines[last + 1], lines[last + 2], lines[last + 3] = kind, detail, id
    last = last + 3
  end

  -- Where each part begins is kept in the clock, so that the stream is cut at a known number of bytes without looking
  -- at it: at most all parts but one are left.
  local function cut(first, part, id)
    local begins = {}
    for k = math.max(first, part - PARTS + 1), part do
      begins[#begins + 1] = 'events:' .. k % PARTS
      begins[#begins + 1] = id
    end
    redis.call('HSET', clock, unpack(begins))
    local oldest = redis.call('HGET', clock, 'events:' .. (part + 1) % PARTS)
    if oldest then redis.pcall('XTRIM', events, 'MINID', oldest) end
  end

  -- Writes the events of this call, in one entry; every script that tells ends with it.
  function write_events()
    if last == 0 then return end
    end_run()
    local text = table.concat(lines, '\n')
    lines, last, head, run_kind = {}, 0, 0, nil
    local size = #text + EVENT_OVERHEAD
    local written = redis.call('HINCRBY', clock, 'events', size)
    local id = redis.pcall('XADD', events, num(now) .. '-' .. num(written), 'e', text)
    -- The clock went back: behind the last entry then.
    if type(id) == 'table' then id = redis.pcall('XADD', events, '*', 'e', text) end
    local before, part = math.floor((written - size) * PARTS / budget), math.floor(written * PARTS / budget)
    if part > before and type(id) == 'string' then cut(before + 1, part, id) end
  end

  -- Adds a minute's sums to its hour's, with the sign '-' takes them out again.
  local function fold(minute, sign)
    local key, hour = prefix .. 'stats:m:' .. num(minute), prefix .. 'stats:h:' .. num(math.floor(minute / 60))
    local sums = redis.pcall('HGETALL', key)
    for i = 1, sums.err and 0 or #sums, 2 do redis.pcall('HINCRBY', hour, sums[i], sign .. sums[i + 1]) end
    redis.call('PEXPIRE', key, 90000000)
    redis.call('PEXPIRE', hour, 15 * DAY)
  end

  -- Adds field and amount pairs of a list to this minute's statistics.
  function count_up(list, first, final)
    if final < first then return end
    if not budget then read_settings() end
    if not counts then return end
    local minute, last = math.floor(now / 60000), tonumber(redis.call('HGET', clock, 'minute') or nil)
    local key = prefix .. 'stats:m:' .. num(minute)
    if last ~= minute then
      if last then fold(last, '') end
      -- Where the clock has gone back, the hour has it already.
      fold(minute, '-')
      redis.call('HSET', clock, 'minute', num(minute))
    end
    for i = first, final, 2 do redis.pcall('HINCRBY', key, list[i], list[i + 1]) end
    -- As long as the hour in whose place it stands.
    if last ~= minute then redis.pcall('PEXPIRE', key, 15 * DAY) end
  end
end

-- The function of a job whose record has not been read; a payload may be large, and its key of a wrong type.
local function name_of(id)
  local head = redis.pcall('GETRANGE', 'arq:job:' .. id, 0, 511)
  return function_of(type(head) == 'string' and head)
end

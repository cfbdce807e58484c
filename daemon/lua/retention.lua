-- Put after the ends: what is forgotten of the ended jobs, by count, by age, and for want of bytes.
local trim, trim_dead, evict, no_room, keep_within_budget, recount

do
  -- The first jobs of an index that have no keep of their own, up to a score, and whether they are its very first. Those with
  -- one stay behind while the others go: "trimmed:<index>" in the clock says up to which score only such are left, so that they are not looked
  -- at again and again.
  local function oldest_usual(index, top, most)
    local own = own_keep[index]
    if not own or not has_own() or redis.call('EXISTS', own) == 0 then
      return redis.call('ZRANGEBYSCORE', index, '-inf', top, 'LIMIT', 0, num(most)), true
    end
    local field = 'trimmed:' .. own
    local from = redis.call('HGET', clock, field) or '-inf'
    -- The clock went back: what ended since stands before that score.
    if from ~= '-inf' and tonumber(string.match(from, '%d+')) > now then from = '-inf' end
    local found = redis.call('ZRANGEBYSCORE', index, from, top, 'WITHSCORES', 'LIMIT', 0, 512)
    local one_ms = #found == 1024 and found[2] == found[1024]
    if one_ms then found = redis.call('ZRANGEBYSCORE', index, found[2], found[2], 'WITHSCORES') end
    local usual, last = {}, from
    for i = 1, #found, 2 do
      if #usual == most then
        one_ms = false
        break
      end
      last = found[i + 1]
      if not redis.call('ZSCORE', own, found[i]) then usual[#usual + 1] = found[i] end
    end
    if one_ms then last = '(' .. last end
    if last ~= from then redis.call('HSET', clock, field, last) end
    return usual
  end

  -- Only what is there: one that was sent back to its queue must not lose its payload.
  local function forget_own(index, ids)
    local there, gone = {}, {}
    for _, id in ipairs(ids) do
      local list = redis.call('ZSCORE', index, id) and there or gone
      list[#list + 1] = id
    end
    if #gone > 0 then unkeep(gone) end
    forget(index, there)
  end

  -- Jobs with a keep of their own: whose time has come, and those that are too many by what the last one asked for.
  local function trim_own(index)
    local own, counted, count = own_keep[index], own_count[index], counts_asked[index]
    forget_own(index, redis.call('ZRANGEBYSCORE', own, '-inf', num(now), 'LIMIT', 0, 256))
    local excess = count and math.min(redis.call('ZCARD', counted) - count, 256) or 0
    if excess > 0 then forget_own(index, redis.call('ZRANGE', counted, 0, excess - 1)) end
    counts_asked[index] = nil
    return redis.call('ZCARD', own)
  end

  -- At most 256 by count and 256 by age (ms) a call; -1 for no bound.
  function trim(index, count, age)
    local own = own_keep[index]
    local others = own and has_own() and redis.call('EXISTS', own) == 1 and trim_own(index) or 0
    if count >= 0 then
      local excess = math.min(redis.call('ZCARD', index) - others - count, 256)
      if excess > 0 then forget(index, oldest_usual(index, '+inf', excess)) end
    end
    if age >= 0 then forget(index, oldest_usual(index, num(now - age), 256)) end
  end

  function trim_dead()
    local c = redis.call('HMGET', conf, 'keep_failed', 'keep_failed_count')
    trim(dead, tonumber(c[2] or nil) or -1, tonumber(c[1] or nil) or -1)
  end

  -- Forgets the jobs that ended first, of dead letters only those that the archive has, until `adding` bytes more are
  -- within the budget; at most 256. Gives the bytes that are over it then.
  function evict(adding)
    local budget = byte_budget()
    local function over()
      local c = redis.call('HMGET', clock, 'bytes', 'events')
      return tonumber(c[1] or 0) + math.min(tonumber(c[2] or 0), event_budget()) + adding - budget
    end
    local excess, left = over(), 256
    for _, index in ipairs({ completed, aborted, expired, archived }) do
      while excess > 0 and left > 0 do
        local ids = redis.call('ZRANGE', index, 0, math.min(left, 32) - 1)
        if #ids == 0 then break end
        -- Not counted yet where the budget is new.
        weigh(ids)
        local freed, going = 0, {}
        for i, bytes in ipairs(redis.call('HMGET', sizes, unpack(ids))) do
          if freed >= excess and i > 1 then break end
          freed = freed + (bytes or 0)
          going[i] = ids[i]
        end
        forget(index == archived and dead or index, going)
        excess, left = over(), left - #going
      end
    end
    return math.max(excess, 0)
  end

  -- When what is over the budget may be gone, ms: as fast as jobs have ended since it was first full, at most a minute
  -- or so ago.
  local function room_in(over)
    local ended, jobs = 0, redis.call('HLEN', sizes)
    for _, count in ipairs(redis.call('HMGET', totals, 'completed', 'aborted', 'expired')) do
      ended = ended + tonumber(count or 0)
    end
    local c = redis.call('HMGET', clock, 'full', 'bytes')
    local since, before = string.match(c[1] or '', '^(%d+) (%d+)$')
    local span = since and now - since or -1
    -- Refusing works on a full server, too.
    redis.call('DEL', prefix .. 'none')
    if span < 0 or span > 60000 then redis.call('HSET', clock, 'full', num(now) .. ' ' .. num(ended)) end
    if span <= 0 or ended <= before + 0 or jobs == 0 then return 5000 end
    local each = math.max(tonumber(c[2] or 0) / jobs, 1)
    return math.max(100, math.min(60000, math.ceil(over / each * span / (ended - before))))
  end

  -- Before new work is written: makes room for so many bytes; gives ms until there may be some where there is none.
  function no_room(adding)
    local over = byte_budget() and evict(adding) or 0
    return over > 0 and room_in(over)
  end

  local WALK = { queue, completed, dead, aborted, expired, sizes }

  -- Counts the next jobs of all there are anew, about so many: those of the queue, then of the indexes, then what was
  -- counted and is gone.
  function recount(count)
    local at, cursor = string.match(redis.call('HGET', clock, 'recount') or '1 0', '^(%d) (%d+)$')
    at = tonumber(at)
    local found = redis.call(at == #WALK and 'HSCAN' or 'ZSCAN', WALK[at], cursor, 'COUNT', num(count))
    local ids = {}
    for i = 1, #found[2], 2 do
      ids[#ids + 1] = found[2][i]
      if #ids == 1000 then
        weigh(ids)
        ids = {}
      end
    end
    weigh(ids)
    if found[1] == '0' then at = at % #WALK + 1 end
    redis.call('HSET', clock, 'recount', at .. ' ' .. found[1])
    if found[1] == '0' and at == 1 then redis.call('HSET', clock, 'counted', 1) end
  end

  -- After workers have written, whom nothing is refused.
  function keep_within_budget()
    if not byte_budget() then return end
    if redis.call('HEXISTS', clock, 'counted') == 0 then recount(500) end
    evict(0)
  end
end

-- Put before the ends: ended jobs with a `keep` of their own. They stand in the index of their family like all others;
-- beside it, where there are any:
--
--   kept:completed, kept:dead        id -> when it is to be forgotten, ms or inf
--   counted:completed, counted:dead  id -> when it ended, ms, of those of which only so many are kept
local own_keep = { [completed] = prefix .. 'kept:completed', [dead] = prefix .. 'kept:dead' }
local own_count = { [completed] = prefix .. 'counted:completed', [dead] = prefix .. 'counted:dead' }
-- How many of them the last that ended in this call wants to be kept.
local counts_asked = {}

-- Whether this family has any; asked once a call.
local any_own
local function has_own()
  if any_own == nil then any_own = redis.call('EXISTS', own_keep[completed], own_keep[dead]) > 0 end
  return any_own
end

-- Before a job ends again, goes back to its queue or is forgotten.
local function unkeep(ids)
  if not has_own() then return end
  for _, index in ipairs({ completed, dead }) do
    redis.call('ZREM', own_keep[index], unpack(ids))
    redis.call('ZREM', own_count[index], unpack(ids))
  end
end

-- age in ms and count, -1 for no bound.
local function keep_own(index, id, age, count)
  any_own = true
  redis.call('ZADD', own_keep[index], age < 0 and '+inf' or num(now + age), id)
  if count >= 0 then
    redis.call('ZADD', own_count[index], num(now), id)
    counts_asked[index] = count
  end
end

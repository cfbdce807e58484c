-- Put after the prelude: dead letters by cause (daemon/causes.py).
--
--   causes          cause -> when its group appeared, ms; a line of JSON (type, place, message); a line for each function
--   caused          id of a dead letter -> its cause
--   cause:<cause>   ids by time of the end, as in `dead`
--
--   archived        ids of those that the database has, too (daemon/archive/archiver.py), by time of the end
--   unarchived      what became of such a one: "<word> <time of the end> <id>", until the archiver has taken note
--
-- A group is there exactly as long as one of its dead letters.
local causes, caused = prefix .. 'causes', prefix .. 'caused'
local archived, unarchived = prefix .. 'archived', prefix .. 'unarchived'
local function cause_key(cause) return prefix .. 'cause:' .. cause end

-- The dead letters are none any more; with a word the archive is to be told, what became of them.
local function unarchive(ids, word)
  if #ids == 0 or redis.call('EXISTS', archived) == 0 then return end
  local told = {}
  if word then
    for i, ended in ipairs(redis.call('ZMSCORE', archived, unpack(ids))) do
      if ended then told[#told + 1] = table.concat({ word, ended, ids[i] }, ' ') end
    end
  end
  redis.call('ZREM', archived, unpack(ids))
  if #told > 0 then redis.call('SADD', unarchived, unpack(told)) end
end

-- The dead letters are none any more.
local function drop_causes(ids)
  unarchive(ids)
  local lists = {}
  for i, cause in ipairs(redis.call('HMGET', caused, unpack(ids))) do
    if cause then
      lists[cause] = lists[cause] or {}
      table.insert(lists[cause], ids[i])
    end
  end
  redis.call('HDEL', caused, unpack(ids))
  for cause, list in pairs(lists) do
    redis.call('ZREM', cause_key(cause), unpack(list))
    if redis.call('EXISTS', cause_key(cause)) == 0 then redis.call('HDEL', causes, cause) end
  end
end

-- `buried` is a list of {id, text}: a line with the cause, one with the function, one with JSON.
local function note_causes(buried)
  local ids, fields, groups = {}, {}, {}
  for i, job in ipairs(buried) do ids[i] = job[1] end
  drop_causes(ids)
  for _, job in ipairs(buried) do
    local cause, name, described = string.match(job[2], '^(%x+)\n([^\n]*)\n([^\n]+)$')
    if cause then
      local group = groups[cause]
      if not group then
        local known = redis.call('HGET', causes, cause)
        group = { known = known, text = known or num(now) .. '\n' .. described, members = {} }
        groups[cause] = group
      end
      if not string.find(group.text .. '\n', '\n' .. name .. '\n', 1, true) then group.text = group.text .. '\n' .. name end
      table.insert(group.members, num(now))
      table.insert(group.members, job[1])
      table.insert(fields, job[1])
      table.insert(fields, cause)
    end
  end
  for cause, group in pairs(groups) do
    redis.call('ZADD', cause_key(cause), unpack(group.members))
    if group.text ~= group.known then redis.call('HSET', causes, cause, group.text) end
  end
  if #fields > 0 then redis.call('HSET', caused, unpack(fields)) end
end

-- Put after the prelude: flows. A parent is BLOCKED until its children have ended as their edges ask (docs/flows.md).
--
--   flows    parent -> "<state> <token>[ <text>]": "w" it waits, "r" it may run, "f" it is to be failed, with this text.
--            The token, 16 characters, is that of the flow: what is told of an earlier use of an id does not count.
--   parents  child -> its edges, one a line: "<parent>\t<rule>\t<index>\t<token>"
--   outbox   stream of what other slots have to be told, written with its cause, deleted when they have acknowledged it:
--            fields "create", token, "families", names; or per ended child its id and "<kind>\n<edges>\n<edge>\n...<result>"
--   pending:<parent>   set of its children that have not ended
--   children:<parent>  ended child -> "<index>\t<outbox entry that told it>\t<kind>\n<its result>"
--   defs:<token>       definitions of the flow that are not yet delivered, in the slot of its root
--   made:<token>       what of the flow was delivered in this slot
-- Kinds of an end: those of lua/tick.lua, "x" removed, "m" there is no such job.

-- Whether this call wrote to the outbox.
local sent = false

local function pending_key(id) return prefix .. 'pending:' .. id end
local function children_key(id) return prefix .. 'children:' .. id end

local function send(reports)
  for i = 1, #reports, 2000 do
    redis.call('XADD', outbox, '*', unpack(reports, i, math.min(i + 1999, #reports)))
    sent = true
  end
end

local function add_report(reports, id, kind, edges, result)
  local _, more = string.gsub(edges, '\n', '\n')
  reports[#reports + 1] = id
  reports[#reports + 1] = table.concat({ kind, more + 1, edges, result }, '\n')
end

local function drop_flow(id)
  redis.call('UNLINK', pending_key(id), children_key(id))
  redis.call('HDEL', flows, id)
end

-- Jobs have ended: their parents are told, and what they kept as parents goes with their own result. A dead letter
-- keeps both, since it may be sent back.
local function end_flows(ended)
  local ids, gone, reports = {}, {}, {}
  for i, job in ipairs(ended) do ids[i] = job[2] end
  local edges, states = redis.call('HMGET', parents, unpack(ids)), redis.call('HMGET', flows, unpack(ids))
  for i, job in ipairs(ended) do
    if edges[i] then
      add_report(reports, ids[i], job[3] == '' and 'x' or job[1], edges[i], job[3])
      if job[1] ~= 'b' then gone[#gone + 1] = ids[i] end
    end
    if states[i] and (job[3] == '' or job[4] == 0) then drop_flow(ids[i]) end
  end
  if #gone > 0 then redis.call('HDEL', parents, unpack(gone)) end
  send(reports)
end

-- What was kept of ended jobs goes. An id that is in use again is left alone.
local function forget_flows(ids)
  local scores, states = redis.call('ZMSCORE', queue, unpack(ids)), redis.call('HMGET', flows, unpack(ids))
  local gone = {}
  for i, id in ipairs(ids) do
    if not scores[i] then
      gone[#gone + 1] = id
      if states[i] then drop_flow(id) end
    end
  end
  if #gone > 0 then redis.call('HDEL', parents, unpack(gone)) end
end

-- Why a claimed parent is to be failed.
local function failed_by_child(state)
  return string.match(state, '^f %S+ (.*)$')
end

-- A parent that is sent back has been decided: it runs.
local function rerun(id)
  local token = redis.call('EXISTS', flows) == 1 and string.match(redis.call('HGET', flows, id) or '', '^f (%S+)')
  if token then redis.call('HSET', flows, id, 'r ' .. token) end
end

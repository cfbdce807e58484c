-- Put after the prelude: which of these jobs a worker of stock arq runs, as a set. Such a job stands where it waited, and
-- only its in-progress key tells. It must not be re-scored: arq's retry adds to the score it read when it took the job.
local function stock_held(ids)
  local theirs, keys = {}, {}
  for i, id in ipairs(ids) do keys[i] = 'arq:in-progress:' .. id end
  if #ids == 0 then return theirs end
  for i, token in ipairs(redis.call('MGET', unpack(keys))) do
    if token and not string.match(token, '^%x+:%d+$') then theirs[ids[i]] = true end
  end
  return theirs
end

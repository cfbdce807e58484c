-- Takes jobs that are gone without an event (their time is over) out of the search index, for one segment.
-- ARGV: 3 the segment, 4 "look", or "evict" to drop it with all that stands in it
-- Returns the ids of the jobs whose last doc stands there, by slot: {slot, id, ...}; none after an eviction.
local number = tonumber(ARGV[3])
local docs = segment_of(ARGV[3])
local found = {}
-- A first write that a full server does not refuse.
redis.call('HDEL', live, '')
for block = 0, math.floor((docs - 1) / BLOCK) do
  for i, id in ipairs(ids_of(ARGV[3], block)) do
    local slot = block * BLOCK + i - 1
    local segment, last = last_place(id)
    if segment == number and last == slot then
      if ARGV[4] == 'look' and (redis.call('ZSCORE', queue, id) or redis.call('EXISTS', 'arq:result:' .. id) == 1) then
        found[#found + 1] = slot
        found[#found + 1] = id
      else
        drop_id(id, number)
      end
    end
  end
end
if ARGV[4] == 'evict' then
  drop_segment(ARGV[3])
  redis.call('HINCRBY', meta, 'version', 1)
end
write_lives()
return found

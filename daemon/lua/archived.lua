-- Notes that the database has these dead letters, so that a budget of bytes may evict them.
-- ARGV: 3... id and time of the end (ms) of each, as the archiver has read them
-- Returns how many are still the same dead letters.
local list = {}
for i = 3, #ARGV, 2 do
  if redis.call('ZSCORE', dead, ARGV[i]) == ARGV[i + 1] then
    list[#list + 1] = ARGV[i + 1]
    list[#list + 1] = ARGV[i]
  end
end
if #list > 0 then redis.call('ZADD', archived, unpack(list)) end
return #list / 2

-- Finds jobs in the search index, the newest first.
-- ARGV: 3 segment and 4 slot of the last one looked at ("" to begin) and 5 its id if it was found ("" if not), 6 at most so
--   many, 7 how much work at most (a thousand is some 0.4 ms), 8 the set they stand in now, as in lua/page.lua, 9 number of
--   its bands, then lowest and highest score of each, number of beginnings of ids and these, then field and 3 bytes of each
--   word's hash
-- Returns {segment and slot of the last one looked at ("" when none are left), {id, score, ...}}. Reads only. A word's
-- hash may be another word's, so look at what is found.
local set = ({ queue = queue, completed = completed, dead = dead, aborted = aborted, expired = expired })[ARGV[8]]
  or prefix .. ARGV[8]
local most, work = tonumber(ARGV[6]), tonumber(ARGV[7])

local bands, beginnings, fields, keys = {}, {}, {}, {}
local at = 10
for _ = 1, ARGV[9] do
  bands[#bands + 1] = { ARGV[at], ARGV[at + 1] }
  at = at + 2
end
local last_beginning = at + ARGV[at]
for i = at + 1, last_beginning do beginnings[#beginnings + 1] = ARGV[i] end
for i = last_beginning + 1, #ARGV, 2 do
  fields[#fields + 1] = ARGV[i]
  keys[#keys + 1] = ARGV[i + 1]
end

local function bound(text)
  local open = string.sub(text, 1, 1) == '('
  text = open and string.sub(text, 2) or text
  return text == '-inf' and -math.huge or text == '+inf' and math.huge or tonumber(text), open
end
local earliest, latest = math.huge, -math.huge
for i, band in ipairs(bands) do
  local low, above = bound(band[1])
  local high, below = bound(band[2])
  bands[i] = function(score)
    return (score > low or score == low and not above) and (score < high or score == high and not below)
  end
  earliest, latest = math.min(earliest, low), math.max(latest, high)
end

local function score_of(id)
  local score = redis.call('ZSCORE', set, id)
  local value = tonumber(score or nil)
  for _, within in ipairs(value and bands or {}) do
    if within(value) then return score end
  end
end

-- Slots below a bound that have a word, ascending.
local function slots_of(text, key, below)
  local slots, place = {}, find(text, key, POSTING)
  while place do
    local high, low = string.byte(text, place + 3, place + 4)
    local slot = high * 256 + low
    if slot >= below then break end
    slots[#slots + 1] = slot
    place = find(text, key, POSTING, place + POSTING)
  end
  work = work - #slots - #text / 500
  return slots
end

-- Whether a word stands at a slot: postings are ordered by slots, so they are searched.
local function stands_at(text, key, slot)
  local low, high = 0, #text / POSTING
  while low < high do
    local middle = math.floor((low + high) / 2)
    local upper, lower = string.byte(text, middle * POSTING + 4, middle * POSTING + 5)
    if upper * 256 + lower < slot then low = middle + 1 else high = middle end
  end
  local place = low * POSTING + 1
  while place < #text do
    local upper, lower = string.byte(text, place + 3, place + 4)
    if upper * 256 + lower ~= slot then return false end
    if string.sub(text, place, place + 2) == key then return true end
    place = place + POSTING
  end
  return false
end

-- Those of some slots at which a word stands, too; few of them are looked up.
local function also_at(slots, text, key, below)
  local both, known = {}, nil
  if #slots > 64 then
    known = {}
    for _, slot in ipairs(slots_of(text, key, below)) do known[slot] = true end
  else
    work = work - 5 * #slots
  end
  for _, slot in ipairs(slots) do
    if known and known[slot] or not known and stands_at(text, key, slot) then both[#both + 1] = slot end
  end
  return both
end

-- Slots below a bound that have all words: those of the word that fewest jobs seem to have, then the others among them.
-- The last word is the set's, which most jobs have: it is only read where the others are found.
local function matching(number, below)
  work = work - 15
  local texts, order = {}, {}
  if #fields > 1 then texts = redis.call('HMGET', segment_key(number), unpack(fields, 1, #fields - 1)) end
  for i, text in ipairs(texts) do
    if not text then return {} end
    order[i] = i
  end
  table.sort(order, function(a, b) return #texts[a] < #texts[b] end)
  order[#fields] = #fields
  local slots
  for _, i in ipairs(order) do
    local text = texts[i] or redis.call('HGET', segment_key(number), fields[i]) or ''
    slots = slots and also_at(slots, text, keys[i], below) or slots_of(text, keys[i], below)
    if #slots == 0 then break end
  end
  return slots
end

local function begins(id)
  local name = string.sub(id, 1, #prefix) == prefix and string.sub(id, #prefix + 1) or id
  for _, beginning in ipairs(beginnings) do
    if string.lower(string.sub(name, 1, #beginning)) ~= beginning then return false end
  end
  return true
end

local found, blocks = {}, {}
local function look_at(number, slot)
  work = work - 15
  local block = math.floor(slot / BLOCK)
  blocks[block] = blocks[block] or ids_of(number, block)
  local id = blocks[block][slot % BLOCK + 1]
  if not id or not begins(id) then return end
  local segment, last = last_place(id)
  if segment ~= number or last ~= slot then return end
  local score = score_of(id)
  if not score then return end
  found[#found + 1] = id
  found[#found + 1] = score
end

local first, below = tonumber(ARGV[3]) or math.huge, tonumber(ARGV[4]) or DOCS
if ARGV[5] ~= '' then
  -- A sweep moves jobs to older segments, all in their order: go on behind the place this one has now.
  local segment, slot = last_place(ARGV[5])
  if segment and (segment < first or segment == first and slot < below) then first, below = segment, slot end
end
local there = {}
local listed = redis.call('HGETALL', segments)
for i = 1, #listed, 2 do
  local number = tonumber(listed[i])
  local from, to = string.match(listed[i + 1], '^%S+ %S+ (%S+) (%S+)$')
  local of_time = set == queue or (tonumber(from) or math.huge) <= latest and tonumber(to) >= earliest
  if number <= first and of_time then there[#there + 1] = number end
end
table.sort(there, function(a, b) return a > b end)

for _, number in ipairs(there) do
  local slots = matching(number, number == first and below or DOCS)
  blocks = {}
  for i = #slots, 1, -1 do
    look_at(number, slots[i])
    if #found >= 2 * most or work <= 0 then return { num(number), num(slots[i]), found } end
  end
  if work <= 0 then return { num(number), '0', found } end
end
return { '', '', found }

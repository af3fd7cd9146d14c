-- Replace: sets fields of an organization's hash if one of them is still what the writer read.
--
-- KEYS  a hash; to note openings: also the hash of the organization's openings, its ledger, the ledger's epoch
-- ARGV  clock_ms · field to compare · its expected value ('' for absent) · number of pairs · then field, value pairs
--       ('' deletes) · then name, text pairs of the openings
-- RETURNS  1 if replaced, 0 if somebody else was faster
-- WRITES  the fields; a note of each opening: format 1 B · now I8 · epoch I8 and seq i8 of the newest row · order I8 ·
--         its text; the order as the organization's `noted`
-- COST  O(fields)
--
-- An opening's name is [TEAM[/KEY]]:COUNTER. If the counter is there (the limit was away, and nobody asked for anything
-- meanwhile), it goes on to count, and there is nothing to open.
-- The order is a time, later than now: every counter that began before the note has a lesser period, every other one
-- that or a greater one (see first_period).

-- Where the newest row stands, or what comes right before the first.
local function newest_row(now)
  local epoch = redis.call('GET', KEYS[4])
  if not epoch then return now, -1 end
  if redis.call('EXISTS', KEYS[3]) == 0 then return tonumber(epoch), -1 end
  local facts = redis.call('XINFO', 'STREAM', KEYS[3])
  for i = 1, #facts, 2 do
    if facts[i] == 'last-generated-id' then
      local first, second = string.match(facts[i + 1], '^(%d+)-(%d+)$')
      return tonumber(first), tonumber(second)
    end
  end
end

local layouts_there = {}
local function has_counter(name)
  local path, counter = string.match(name, '^([^:]*):(.*)$')
  local field = path == '' and 'scope' or 'scope:' .. path
  if layouts_there[field] == nil then
    local raw = redis.call('HGET', KEYS[1], field)
    layouts_there[field] = raw and layout_of(unpack_scope(raw).layout).at or {}
  end
  return layouts_there[field][counter] ~= nil
end

-- `began` is the greatest period that a counter began with. Its next window may have made it one more, if it began in
-- the last ms of one; every other window's period is its start.
local function next_order(now)
  local order = now + 1
  for _, text in ipairs(redis.call('HMGET', KEYS[1], 'began', 'noted')) do
    local known = tonumber(text or 0)
    if known - now <= CLOCK_SLACK_MS then order = math.max(order, known + 2) end
  end
  return order
end

local present = redis.call('HGET', KEYS[1], ARGV[2]) or ''
if present ~= ARGV[3] then return 0 end
local pairs_end, now = 4 + 2 * tonumber(ARGV[4]), store_time(ARGV[1])
local notes, order = {}, nil
if #ARGV > pairs_end then
  local epoch, seq = newest_row(now)
  order = next_order(now)
  local head = struct.pack('<BI8I8i8I8', 1, now, epoch, seq, order)
  for i = pairs_end + 1, #ARGV, 2 do
    if not has_counter(ARGV[i]) then notes[#notes + 1] = {ARGV[i], head .. ARGV[i + 1]} end
  end
end

-- write
for i = 5, pairs_end, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
if notes[1] then redis.call('HSET', KEYS[1], 'noted', text_of(order)) end
for _, note in ipairs(notes) do redis.call('HSET', KEYS[2], note[1], note[2]) end
return 1

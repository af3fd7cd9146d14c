-- Put before every verb: the numbers and the arithmetic that all verbs share. Pure but for
-- store_time. Lua numbers are doubles, so every integer here stays below 2^53; sums of money, which
-- may not, are kept in two limbs: whole USD and the nano-USD below one (0 .. NANO-1).
--
-- A table that grows entry by entry is made anew at every power of two, and a string of two parts is hashed anew: both
-- cost more than what goes in. So what is made for every hold is made in one piece: with room ({nil, nil, nil}), in a
-- table that is used again, or by one struct.pack.

local floor = math.floor
local NANO = 1000000000
local STALE = {version = 4, key = 5, window = 6, clock = 7}
local CLOCK_SLACK_MS = 60000

local SPEND, REQUESTS, TOKENS, CONCURRENCY = 1, 2, 3, 4
local HELD, SETTLED, RELEASED, EXPIRED = 1, 2, 3, 4
local BY_EXPIRY, BY_RELEASE, BY_ESTIMATE, BY_USAGE = 1, 2, 3, 4
local CHARGE_ON_EXPIRY = 1
local F_OVERAGE, F_LATE, F_UNCLAIMED, F_TOKEN_EXCESS, F_WINDOW_CLOSED = 1, 2, 4, 32, 64
local F_FORCED, F_CONSUMED, F_SHADOWED, F_ZERO_COST, F_SUSPECT, F_ADJUSTED = 128, 256, 512, 1024, 2048, 4096
local ROW_SETTLEMENT, ROW_CHARGE, ROW_CORRECTION, ROW_EVENT, ROW_REFUSALS, ROW_OPENING = 1, 2, 3, 4, 5, 6

-- What text_of remembers, which is to last for one call: nothing else would ever let it go.
local texts

-- The one clock: the store's TIME in ms, frozen for the script. A test may pass its own. Every verb that makes texts of
-- integers begins with it.
local function store_time(clock_ms)
  texts = {}
  if clock_ms ~= '' then return tonumber(clock_ms) end
  local time = redis.call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

local function limbs(nanousd)
  local usd = floor(nanousd / NANO)
  return usd, nanousd - usd * NANO
end

-- Adds nano-USD (of either sign) to the limbs at v[i], v[i+1].
local function add_money(v, i, nanousd)
  local usd, nano = limbs(nanousd)
  usd, nano = v[i] + usd, v[i + 1] + nano
  if nano >= NANO then usd, nano = usd + 1, nano - NANO end
  v[i], v[i + 1] = usd, nano
end

local function has_flag(flags, flag)
  return floor(flags / flag) % 2 == 1
end

-- An integer as the text that commands take.
local function text_of(integer)
  local text = texts[integer]
  if not text then
    text = string.format('%.0f', integer)
    texts[integer] = text
  end
  return text
end

local function with_flag(flags, flag)
  if has_flag(flags, flag) then return flags end
  return flags + flag
end

local function without_flag(flags, flag)
  return has_flag(flags, flag) and flags - flag or flags
end

local function with_flags(flags, mask)
  local flag = 1
  while mask > 0 do
    if mask % 2 == 1 then flags = with_flag(flags, flag) end
    mask, flag = floor(mask / 2), flag * 2
  end
  return flags
end

-- A batch has KEYS: for each shard its due index, ledger and epoch; then the hash of each
-- organization; then one key per item (a hold), in the order of the items. ARGV has: the clock, heading, placing; the
-- rules of scopes; the plans; the items. `heading` says how many of each, `placing` in which shard each organization is
-- and, for each plan, its organization and the rules of each of its scopes.
local function open_batch(now, heading, placing)
  local shards, orgs, items, rules, plans, extra = struct.unpack('<I2I2I2I2I2I8', heading)
  local batch = {now = now, items = items, rules = rules, plans = plans, extra = extra,
                 first_hold = 3 * shards + orgs, before_items = 3 + rules + plans, shards = {}, orgs = {}, puts = {}}
  for s = 1, shards do
    batch.shards[s] = {due = KEYS[3 * s - 2], ledger = KEYS[3 * s - 1], epoch_key = KEYS[3 * s], epoch = false,
                       rows = false, adds = false, drops = false}
  end
  for o = 1, orgs do
    local shard = struct.unpack('<I2', placing, 2 * o - 1)
    local key = KEYS[3 * shards + o]
    local _, colon = string.find(key, '}:org:', 1, true)
    batch.orgs[o] = {key = key, name = string.sub(key, colon + 1), shard = batch.shards[shard + 1],
                     values = {}, dirty = false, puts = false}
  end
  return batch
end

-- Remembers that a field of an organization's hash will be read. In `values` a field is false where there is none, its
-- text as it was read, or the counters that were made of that.
local function want(org, field)
  if org.values[field] == nil then org.values[field] = false end
end

-- Has a field of an organization's hash written at the end, as it stands.
local function put_field(org, field, text)
  org.values[field] = text
  org.puts = org.puts or {}
  org.puts[field] = true
end

local function read_orgs(batch)
  local fields = {}
  for _, org in ipairs(batch.orgs) do
    local values, n = org.values, 0
    for field in pairs(values) do
      n = n + 1
      fields[n] = field
    end
    if n > 0 then
      local found = redis.call('HMGET', org.key, unpack(fields, 1, n))
      for i = 1, n do values[fields[i]] = found[i] end
    end
  end
end

-- Reads the records of all holds of the batch and the epochs of its shards, in one command.
local function read_holds(batch)
  local keys, n = {}, batch.items
  for i = 1, n do keys[i] = KEYS[batch.first_hold + i] end
  for s, shard in ipairs(batch.shards) do keys[n + s] = shard.epoch_key end
  local values = redis.call('MGET', unpack(keys))
  batch.records = {}
  for i = 1, n do batch.records[keys[i]] = values[i] end
  for s, shard in ipairs(batch.shards) do shard.epoch = values[n + s] end
end

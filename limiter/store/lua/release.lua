-- Release: ends holds with nothing spent. A sidecar that releases for a caller that is gone
-- (unclaimed) takes back one claim, and ends the hold only if nobody else was given it.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization; record of each hold
-- ARGV  clock_ms · heading · placing · one item per hold: organization I2 · flags I4 · retention_ms I8 ·
--       reserved_ms I8 (0: any) · the end (JSON)
-- RETURNS  the time, then per hold: found B · state B · basis B · repeated B · flags I4 · held I8 · cost i8
-- WRITES  records, counters, overages, due index, one row per hold that changed
-- COST  O(holds × counters)

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
local items = {}
for i = 1, batch.items do
  local org, flags, retention, reserved, at = struct.unpack('<I2I4I8I8', ARGV[3 + i])
  items[i] = {org = batch.orgs[org + 1], key = KEYS[batch.first_hold + i], state = RELEASED, basis = BY_RELEASE,
              cost = 0, tokens = 0, flags = flags, unclaimed = flags == F_UNCLAIMED, retention = retention,
              reserved = reserved, ending = string.sub(ARGV[3 + i], at)}
end

-- write
return end_holds(batch, items)

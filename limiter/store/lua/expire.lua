-- Expire: ends holds that are due. Charged in full or given back, as the hold itself says; a member
-- of the due index whose record is gone is dropped.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization; record of each hold
-- ARGV  clock_ms · heading · placing · one item per hold: organization I2 · retention_ms I8
-- RETURNS  the time, then per hold: found B · state B · basis B · repeated B · flags I4 · held I8 · cost i8
-- WRITES  records, counters, overages, due index, one row per hold that changed
-- COST  O(holds × counters)

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
local items = {}
for i = 1, batch.items do
  local org, retention = struct.unpack('<I2I8', ARGV[3 + i])
  items[i] = {org = batch.orgs[org + 1], key = KEYS[batch.first_hold + i], state = EXPIRED, basis = BY_EXPIRY,
              tokens = -1, flags = 0, retention = retention, reserved = 0, ending = ''}
end

-- write
return end_holds(batch, items)

-- Extend: keeps holds open until no earlier than now + ttl, and no later than their lifetime allows.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization; record of each hold
-- ARGV  clock_ms · heading · placing · one item per hold: organization I2 · ttl_ms I8
-- RETURNS  the time, then per hold: found B · state B · repeated B · expires I8
-- WRITES  records, due index
-- COST  O(holds)

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
read_holds(batch)
local replies = {}
for i = 1, batch.items do
  local key, org, ttl = KEYS[batch.first_hold + i], struct.unpack('<I2I8', ARGV[3 + i])
  local hold = batch.records[key] and decode_hold(batch.records[key])
  if not hold then
    replies[i] = struct.pack('<B', 0)
  elseif hold.state ~= HELD or hold.expires <= batch.now then
    replies[i] = struct.pack('<BBBI8', 1, hold.state == HELD and EXPIRED or hold.state, 0, hold.expires)
  else
    local expires = math.min(batch.now + ttl, hold.expires_max)
    local longer = expires > hold.expires
    if longer then
      hold.expires = expires
      add_due(batch.orgs[org + 1].shard, expires, member_of(batch.orgs[org + 1], key))
      put_record(batch, key, encode_hold(hold), 0)
    end
    replies[i] = struct.pack('<BBBI8', 1, HELD, longer and 0 or 1, hold.expires)
  end
end

-- write
write_batch(batch)
return {text_of(batch.now), unpack(replies)}

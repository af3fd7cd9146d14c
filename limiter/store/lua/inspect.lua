-- Inspect: the state of every limit of the plans, brought to the present. Read only.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization
-- ARGV  clock_ms · heading · placing · plans
-- RETURNS  the time, then per plan: code B (0, or what is stale) · number of statuses B · statuses as in reserve
-- WRITES  nothing
-- COST  O(plans × limits)

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
local plans, replies = decode_plans(batch, 4, #ARGV - 3), {}
read_orgs(batch)
for p, plan in ipairs(plans) do
  local stale = out_of_date(plan, batch.now)
  local tell = {}
  if not stale or stale == 'clock' then inform(plan, true, tell) end
  replies[p] = struct.pack('<BB', stale and stale ~= 'clock' and STALE[stale] or 0, #tell) .. table.concat(tell)
end
return {text_of(batch.now), unpack(replies)}

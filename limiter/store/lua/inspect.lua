-- Inspect: the state of every limit of the plans, brought to the present. Read only.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization
-- ARGV  clock_ms · heading · placing · rules · plans
-- RETURNS  the time, then per plan: code B (0, or what is stale) · number of statuses B · statuses as in reserve ·
--          the overage of each, usd i8 and nano i8
-- WRITES  nothing
-- COST  O(plans × limits)

local function want_all_overages(plan)
  for s, scope in ipairs(plan.scopes) do
    local layout = layout_of(scope.layout)
    for i = 1, scope.limits do
      if layout.kinds[i] == SPEND then want(plan.org, overage_field(plan.fields[s], layout.names[i])) end
    end
  end
end

-- The overages of all limits that apply, in the order in which `inform` tells them; what counts no money has none.
local function tell_overages(plan)
  local told = {}
  for s, scope in ipairs(plan.scopes) do
    local layout = layout_of(scope.layout)
    for i = 1, scope.limits do
      local usd, nano = 0, 0
      if layout.kinds[i] == SPEND then
        local period = plan.states[s].v[(i - 1) * WIDTH + 1]
        usd, nano = overage_of(plan.org, overage_field(plan.fields[s], layout.names[i]), period)
      end
      if scope.rules[(i - 1) * RULE + 2] > 0 then told[#told + 1] = struct.pack('<i8i8', usd, nano) end
    end
  end
  return table.concat(told)
end

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
local plans, replies = decode_plans(batch), {}
for _, plan in ipairs(plans) do want_all_overages(plan) end
read_orgs(batch)
for p, plan in ipairs(plans) do
  local stale = out_of_date(plan, batch.now)
  if stale and stale ~= 'clock' then
    replies[p] = struct.pack('<BB', STALE[stale], 0)
  else
    local tell = {}
    inform(plan, true, tell)
    replies[p] = struct.pack('<BB', 0, #tell) .. table.concat(tell) .. tell_overages(plan)
  end
end
return {text_of(batch.now), unpack(replies)}

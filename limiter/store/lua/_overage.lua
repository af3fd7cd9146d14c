-- Overage: what a spend limit was charged above what it held. It is rare, so it is not among the counters of
-- _scopes.lua: each limit that had any has a field of the organization's hash, overage:[TEAM[/KEY]]:COUNTER.
--
--   format 1 B · period_ms I8 · usd i8 · nano i8
-- The period is the counter's: a sum of another period is not told any more, and the next one takes its place.

local OVERAGE = '<BI8i8i8'

local function overage_field(scope_field, counter)
  return 'overage:' .. string.sub(scope_field, 7) .. ':' .. counter
end

-- The overage of a counter in one of its periods, as limbs, from what was read or is to be written.
local function overage_of(org, field, period)
  if not org.values[field] then return 0, 0 end
  local format, known, usd, nano = struct.unpack(OVERAGE, org.values[field])
  if format ~= 1 then error('overage of format ' .. format) end
  if known ~= period then return 0, 0 end
  return usd, nano
end

-- Calls visit(scope's field, counter, period, held) for every spend limit that the hold took from.
local function each_spend(hold, visit)
  for _, scope in ipairs(hold.taken) do
    local layout = layout_of(scope[3])
    for i = 1, layout.counters do
      local period, held = scope[i + 3], hold.held
      if period > LESSER then
        local which = floor(period / LESSER)
        period, held = period - which * LESSER, hold.lesser[which]
      end
      if period > 0 and layout.kinds[i] == SPEND then visit(scope[2], layout.names[i], period, held) end
    end
  end
end

-- Has the overages read that a cost of this hold is part of, or will be.
local function want_overages(org, hold, cost)
  each_spend(hold, function(field, counter, _, held)
    if cost > held then want(org, overage_field(field, counter)) end
  end)
end

-- Counts what the hold now costs above what each limit held, in place of what it cost before.
local function move_overages(org, hold, cost)
  each_spend(hold, function(scope_field, counter, period, held)
    local moved = math.max(cost - held, 0) - math.max(hold.cost - held, 0)
    local state = moved ~= 0 and open_scope(org, scope_field)
    local at = state and layout_of(state.layout).at[counter]
    if not at or state.v[at + 1] ~= period then return end
    local field = overage_field(scope_field, counter)
    local sum = {overage_of(org, field, period)}
    add_money(sum, 1, moved)
    if sum[1] < 0 then sum = {0, 0} end
    put_field(org, field, struct.pack(OVERAGE, 1, period, sum[1], sum[2]))
  end)
end

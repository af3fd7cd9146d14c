-- A plan: what the policy says of one key and model, compiled by the sidecar and sent with the call.
--
--   policy version I8 · key revision I8 · denial B · number of scopes B · key field (zero-terminated) ·
--   for each scope: field, layout (zero-terminated) · number of limits B · RULE integers i8 per limit:
--     spend        kind, mode, ceiling usd, ceiling nano, first warn, warns, three window bounds
--     bucket       kind, mode, amount, burst, ticks per period, ms per tick, 0, 0, 0
--     concurrency  kind, mode, slots, 0, 0, 0, 0, 0, 0
--   number of thresholds I2 · for each: millionths, usd, nano as i8
-- The bounds are: start of the window that was present when the plan was made, start of the next,
-- end of the next. Modes: 0 the limit does not apply to this model, 1 it is enforced, 2 it is a shadow;
-- for spend, 4 more where it takes the first of a hold's lesser amounts, 8 more where it takes the second.

local RULE = 9
local ENFORCED, SHADOW, LESSER_MODE = 1, 2, 4

-- `from` and `till` bound the time that the plan may decide at; `states` are those of its scopes once they are read.
-- `lesser` says which limits take a lesser amount of a hold, and which one; false: none does.
local function decode_plan(blob, org)
  local version, revision, denial, n, key_field, at = struct.unpack('<I8I8BBs', blob)
  local plan = {org = org, version = version, revision = revision, denial = denial, key_field = key_field, scopes = {},
                states = {}, warns = false, lesser = false, from = 0, till = math.huge, stale = 'unknown',
                taken = false}
  for s = 1, n do
    local field, layout, limits
    field, layout, limits, at = struct.unpack('<ssB', blob, at)
    local rules = {}
    if limits > 0 then
      rules = {struct.unpack(integers[RULE * limits], blob, at)}
      at = rules[RULE * limits + 1]
    end
    for r = 0, (limits - 1) * RULE, RULE do
      if rules[r + 1] == SPEND then
        plan.from, plan.till = math.max(plan.from, rules[r + 7]), math.min(plan.till, rules[r + 9])
        local lesser = floor(rules[r + 2] / LESSER_MODE)
        if lesser > 0 then
          plan.lesser = plan.lesser or {}
          plan.lesser[s * 64 + r / RULE], rules[r + 2] = lesser, rules[r + 2] - lesser * LESSER_MODE
        end
      end
    end
    plan.scopes[s] = {field = field, layout = layout, limits = limits, rules = rules}
    want(org, field)
  end
  local warns = struct.unpack('<I2', blob, at)
  if warns > 0 then plan.warns = {struct.unpack(integers[3 * warns], blob, at + 2)} end
  want(org, 'version')
  if key_field ~= '' then want(org, key_field) end
  return plan
end

-- Starts the counter of one rule: nothing spent, buckets full.
local function start_counter(v, at, rules, r, now, period)
  for i = 1, WIDTH do v[at + i] = 0 end
  v[at + 1] = period
  if rules[r + 1] == SPEND then
    v[at + 2] = now < rules[r + 8] and rules[r + 8] or rules[r + 9]
  elseif rules[r + 1] ~= CONCURRENCY then
    v[at + 2] = floor(now / rules[r + 6])
    v[at + 3] = rules[r + 4] * rules[r + 5]
    v[at + 4], v[at + 5], v[at + 6], v[at + 7] = rules[r + 3], rules[r + 4], rules[r + 5], rules[r + 6]
  end
end

-- The period of counters that start now. Even in the same ms
--   a counter that starts again must not be taken for the one that holds remember: its period is one that no counter
--   of the scope has had, and `last` is never before a period;
--   counters that start before new limits are noted have a lesser period than those that start after: `noted` of the
--   organization is beyond every period that began before (see replace.lua), and none that begins later is before it.
local function first_period(org, last, now)
  if not org.began then
    local found = redis.call('HMGET', org.key, 'began', 'noted')
    org.began, org.noted = tonumber(found[1] or 0), tonumber(found[2] or 0)
  end
  local first = math.max(now, last + 1)
  return org.noted - now <= CLOCK_SLACK_MS and math.max(first, org.noted) or first
end

-- Brings the counters of a scope to the present: an ended window is left behind, never an open one; a
-- bucket refills and takes the policy's present amount and burst.
local function bring_forward(state, scope, now)
  local v, rules, last, at, r = state.v, scope.rules, state.last, 0, 0
  for _ = 1, scope.limits do
    local kind = rules[r + 1]
    if not v[at + 1] then start_counter(v, at, rules, r, now, state.fresh) end
    if kind == SPEND then
      local ended = v[at + 2]
      if now >= ended then
        local start = now < rules[r + 8] and rules[r + 7] or rules[r + 8]
        local finish = now < rules[r + 8] and rules[r + 8] or rules[r + 9]
        v[at + 1], v[at + 2] = math.max(start, ended, v[at + 1] + 1), finish
        for i = 3, WIDTH do v[at + i] = 0 end
      end
    elseif kind ~= CONCURRENCY then
      refill(v, at, now)
      if v[at + 4] ~= rules[r + 3] or v[at + 5] ~= rules[r + 4] then
        v[at + 4], v[at + 5] = rules[r + 3], rules[r + 4]
        local size = rules[r + 4] * rules[r + 5]
        v[at + 3] = math.max(-size, math.min(size, v[at + 3]))
      end
    end
    if v[at + 1] > last then last = v[at + 1] end
    at, r = at + WIDTH, r + RULE
  end
  state.last = last
end

local function load_scope(org, scope, now)
  local state = org.states[scope.field]
  if state then return state end
  local raw = org.raw[scope.field]
  state = raw and unpack_scope(raw) or {last = 0, layout = '', v = {}, n = 0, dirty = false}
  state.behind = state.last - now > CLOCK_SLACK_MS
  if state.layout ~= scope.layout then
    relayout(state, scope.layout)
    state.fresh = first_period(org, state.last, now)
  end
  bring_forward(state, scope, now)
  org.states[scope.field] = state
  return state
end

-- Whether the plan may decide: 'version', 'key', 'window' or 'clock' says what is out of date.
local function out_of_date(plan, now)
  local org = plan.org
  if tonumber(org.raw.version or 0) ~= plan.version then return 'version' end
  if plan.key_field ~= '' then
    local record = org.raw[plan.key_field]
    if (record and struct.unpack('<I8', record) or 0) ~= plan.revision then return 'key' end
  end
  if now < plan.from or now >= plan.till then return 'window' end
  local behind = false
  for s, scope in ipairs(plan.scopes) do
    local state = load_scope(org, scope, now)
    plan.states[s] = state
    if state.behind then behind = 'clock' end
  end
  return behind
end

local function decode_plans(batch, first, count)
  local plans = {}
  for p = 1, count do
    local org = struct.unpack('<I2', ARGV[3], 2 * (#batch.orgs + p) - 1)
    plans[p] = decode_plan(ARGV[first + p - 1], batch.orgs[org + 1])
  end
  return plans
end

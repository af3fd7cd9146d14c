-- A plan: what the policy says of one key and model, compiled by the sidecar and sent with the call.
--
--   policy version I8 · key revision I8 · denial B · number of scopes B · key field (zero-terminated) ·
--   for each scope: field (zero-terminated)
-- Where its organization and the rules of its scopes are among those of the batch, `placing` says: see open_batch.

local strings, places = formats('<', 's'), formats('<', 'I2')

-- For each of its scopes: in `fields` where its counters are, in `scopes` what decode_rules answered, in `states` its
-- counters once they are read.
local function decode_plan(blob, org, all_rules, place)
  local version, revision, denial, n, key_field, at = struct.unpack('<I8I8BBs', blob)
  local fields, scopes = {struct.unpack(strings[n], blob, at)}, {struct.unpack(places[n], ARGV[3], place + 2)}
  fields[n + 1], scopes[n + 1] = nil, nil
  local plan = {org = org, version = version, revision = revision, denial = denial, key_field = key_field,
                fields = fields, scopes = scopes, states = {nil, nil, nil}, warns = false, lesser = false, from = 0,
                till = math.huge, stale = 'unknown', taken = false}
  for s = 1, n do
    local scope = all_rules[scopes[s] + 1]
    scopes[s] = scope
    if scope.from > plan.from then plan.from = scope.from end
    if scope.till < plan.till then plan.till = scope.till end
    plan.warns, plan.lesser = plan.warns or scope.warns, plan.lesser or scope.lesser
    want(org, fields[s])
  end
  want(org, 'version')
  if key_field ~= '' then want(org, key_field) end
  return plan, place + 2 * (n + 1)
end

local function load_scope(org, field, scope, now)
  local found = org.values[field]
  if type(found) == 'table' then return found end
  local state = found and unpack_scope(found) or {last = 0, layout = '', v = {}, n = 0, dirty = false}
  state.behind = state.last - now > CLOCK_SLACK_MS
  if state.layout ~= scope.layout then
    relayout(state, scope.layout)
    state.fresh = first_period(org, state.last, now)
  end
  bring_forward(state, scope, now)
  org.values[field] = state
  return state
end

-- Whether the plan may decide: 'version', 'key', 'window' or 'clock' says what is out of date.
local function out_of_date(plan, now)
  local org = plan.org
  if tonumber(org.values.version or 0) ~= plan.version then return 'version' end
  if plan.key_field ~= '' then
    local record = org.values[plan.key_field]
    if (record and struct.unpack('<I8', record) or 0) ~= plan.revision then return 'key' end
  end
  if now < plan.from or now >= plan.till then return 'window' end
  local behind = false
  for s, scope in ipairs(plan.scopes) do
    local state = load_scope(org, plan.fields[s], scope, now)
    plan.states[s] = state
    if state.behind then behind = 'clock' end
  end
  return behind
end

local function decode_plans(batch)
  local all_rules, plans, first, place = {}, {}, 3 + batch.rules, 2 * #batch.orgs + 1
  for i = 1, batch.rules do all_rules[i] = decode_rules(ARGV[3 + i]) end
  for p = 1, batch.plans do
    local org = struct.unpack('<I2', ARGV[3], place)
    plans[p], place = decode_plan(ARGV[first + p], batch.orgs[org + 1], all_rules, place)
  end
  return plans
end

-- Thresholds of spend limits (warn_at); for reserve and charge.

-- Nano-USD of two limbs, as digits: the sum may be above 2^53.
local function digits_of(usd, nano)
  return usd > 0 and string.format('%.0f%09d', usd, nano) or text_of(nano)
end

-- When the window began that ends at `ends`; 0 if the plan knows none: it was opened in another time zone.
local function window_start(rules, r, ends)
  return ends == rules[r + 8] and rules[r + 7] or ends == rules[r + 9] and rules[r + 8] or 0
end

-- An event row: the spend limit `i` of a scope passed a threshold (in millionths of its ceiling). Names hold only
-- letters, digits and . _ @ -, so that they need no escaping.
local function add_event(org, field, scope, i, v, millionths, member, now)
  local path, at, r = org.name .. string.gsub(string.sub(field, 6), ':', '/'), i * WIDTH, i * RULE
  local limit, window = string.match(layout_of(scope.layout).names[i + 1], '^([^:]+):spend:(%a+)$')
  local text = '{"event":"threshold","scope":"%s","limit":"%s","window":"%s","window_start_ms":%.0f,'
    .. '"resets_at_ms":%.0f,"threshold":%.6f,"ceiling_nanousd":%s,"settled_nanousd":%s,"held_nanousd":%s}'
  local ends = v[at + 2]
  local start, ceiling = window_start(scope.rules, r, ends), digits_of(scope.rules[r + 3], scope.rules[r + 4])
  local settled, held = digits_of(v[at + 3], v[at + 4]), digits_of(v[at + 5], v[at + 6])
  add_note(org.shard, ROW_EVENT, member,
    string.format(text, path, limit, window, start, ends, millionths / 1000000, ceiling, settled, held), now)
end

-- Reports the thresholds of spend limits that are passed; the first time in a window by an event row.
local function warn(batch, plan, item, tell)
  for s, scope in ipairs(plan.scopes) do
    local v, rules, warns = plan.states[s].v, scope.rules, scope.warns
    for i = 0, scope.limits - 1 do
      local at, r, passed = i * WIDTH, i * RULE, 0
      if rules[r + 1] == SPEND and rules[r + 2] > 0 then
        for w = rules[r + 5], rules[r + 5] + 3 * (rules[r + 6] - 1), 3 do
          local usd, nano = v[at + 3] + v[at + 5] - warns[w + 1], v[at + 4] + v[at + 6] - warns[w + 2]
          if usd * NANO + nano < 0 then break end
          passed = warns[w]
          if passed > v[at + 7] then
            v[at + 7] = passed
            add_event(plan.org, plan.fields[s], scope, i, v, passed, member_of(plan.org, item.key), batch.now)
          end
        end
        if passed > 0 then tell[#tell + 1] = status(s, i, WARNS, v, at) end
      end
    end
  end
end

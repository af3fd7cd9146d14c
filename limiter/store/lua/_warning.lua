-- Thresholds of spend limits (warn_at); for reserve and charge.

-- Reports the thresholds of spend limits that are passed; the first time in a window by an event row.
local function warn(batch, plan, item, tell)
  for s, scope in ipairs(plan.scopes) do
    local v, rules = plan.states[s].v, scope.rules
    for i = 0, scope.limits - 1 do
      local at, r, passed = i * WIDTH, i * RULE, 0
      if rules[r + 1] == SPEND and rules[r + 2] > 0 then
        for w = rules[r + 5], rules[r + 5] + 3 * (rules[r + 6] - 1), 3 do
          local usd, nano = v[at + 3] + v[at + 5] - plan.warns[w + 1], v[at + 4] + v[at + 6] - plan.warns[w + 2]
          if usd * NANO + nano < 0 then break end
          passed = plan.warns[w]
          if passed > v[at + 7] then
            v[at + 7] = passed
            add_event(plan.org, scope, i, passed, member_of(plan.org, item.key), batch.now)
          end
        end
        if passed > 0 then tell[#tell + 1] = status(s, i, WARNS, v, at) end
      end
    end
  end
end

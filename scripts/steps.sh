# shellcheck shell=bash
# Named, timed and counted steps, for the scripts that check and test. Needs lib.sh.

PASSED=0
FAILED=0
BROKEN_STEPS=()
mkdir -p target/log

# step NAME COMMAND...: runs the command in a subshell that stops at its first error, keeps its output in
# target/log/NAME.log, and adds what the output counts to the totals. Returns whether it succeeded.
step() {
    local name=$1 rc start=$SECONDS passed failed log=target/log/$1.log
    shift
    say "--- $name"
    # Not `if (…)` nor `(…) ||`: there bash ignores errors inside.
    set +e
    (
        set -e
        "$@"
    ) </dev/null 2>&1 | tee "$log"
    rc=${PIPESTATUS[0]}
    set -e
    read -r passed failed < <(count "$log")
    if [ "$rc" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
    if [ "$rc" -eq 0 ] && [ $((passed + failed)) -eq 0 ]; then passed=1; fi
    PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed))
    if [ "$rc" -ne 0 ] || [ "$failed" -ne 0 ]; then
        BROKEN_STEPS+=("$name")
        say "--- $name FAILED ($passed passed, $failed failed) in $((SECONDS - start)) s, see $log"
        return 1
    fi
    say "--- $name ok ($passed) in $((SECONDS - start)) s"
}

# The failed tests of a step with what they say about it, for whoever has only the end of the output.
what_failed() {
    local name=$1 log=target/log/$1.log output=target/log/$1 file
    if compgen -G "$output/regress_log_*" >/dev/null; then # TAP
        grep -lE '^\S+ +not ok |^\S+ # Looks like your test (exited|died)|Bail out!' "$output"/regress_log_* | while read -r file; do
            echo "${file##*/regress_log_}:"
            # Each failed test with the lines of diagnostics after it, and how the file ended.
            awk '{ line = $0; sub(/^\[[0-9:.]+\]\([0-9.]+s\) /, "", line) }
                line ~ /^ *not ok / { print line; follow = 15; next }
                line ~ /^ *ok / { follow = 0 }
                line ~ /Looks like your test (exited|died)|Bail out!|timed out/ { print line; follow = 15; next }
                follow > 0 && line ~ /^ *#/ && line !~ /Failed test|^ *# +at \// { print line; follow-- }' "$file"
        done
    elif [ -s "$output/regression.diffs" ]; then # pg_regress
        grep -E '^(not ok |test .*FAILED|.* \.\.\. FAILED)' "$log"
        grep -E '^[-+]' "$output/regression.diffs" | head -n 40
    elif grep -qE '^test .* FAILED$' "$log"; then # cargo
        grep -E '^test .* FAILED$' "$log"
        grep -A 6 -E "^thread '.*' .*panicked at" "$log"
    else
        tail -n 20 "$log"
    fi
}

count() { # passed and failed tests in an output of cargo, pg_regress, prove or a script of ours
    awk '
        /^test result: / { p += $4; f += $6 }
        / All [0-9]+ tests passed/ { for (i = 1; i < NF; i++) if ($i == "All") p += $(i + 1) }
        / [0-9]+ of [0-9]+ tests failed/ { for (i = 2; i < NF; i++) if ($i == "of") { f += $(i - 1); p += $(i + 1) - $(i - 1) } }
        /^Files=[0-9]+, Tests=[0-9]+/ { split($2, t, /[=,]/); p += t[2] }
        /^# Looks like you failed [0-9]+ tests? of/ { for (i = 1; i < NF; i++) if ($i == "failed") { f += $(i + 1); p -= $(i + 1) } }
        /^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 }
        END { print (p < 0 ? 0 : p) + 0, f + 0 }' "$1"
}

finish_steps() { # prints what failed and the closing line; fails if a step did
    if [ ${#BROKEN_STEPS[@]} -gt 0 ]; then
        say "failed: ${BROKEN_STEPS[*]}"
        local name
        for name in "${BROKEN_STEPS[@]}"; do
            echo "--- $name:"
            what_failed "$name" | head -n 60 | cut -c 1-300 || true # no match, or more than there is room for
        done
    fi
    say "total time"
    echo "$PASSED passed, $FAILED failed"
    [ ${#BROKEN_STEPS[@]} -eq 0 ]
}

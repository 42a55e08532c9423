#!/usr/bin/env bash
# Runs the members of config/three-members.yml on this machine, in the foreground, until Ctrl-C. `make cluster` builds
# castd and calls this.
#
#   config/local-cluster.sh PATH_TO_CASTD
#
# Each member gets a copy of the sample in which only the lines marked "own", the addresses and the data directory differ.
# What may be set in the environment:
#
#   CLIENT_PORTS  "2379 22379 32379"     ports for clients, on 127.0.0.1, of m1, m2 and m3
#   PEER_PORTS    "2380 22380 32380"     ports among members; a cluster that exists keeps its own
#   DATA_DIR      "local-cluster.etcd"   data of all three, and their config files; a start on it again goes on
#   SETTINGS      ""                     more lines for the config files, such as "storage: 'sled'"
set -euo pipefail

sample=$(dirname "$0")/three-members.yml
castd=${1:?usage: $0 PATH_TO_CASTD}
directory=${DATA_DIR:-local-cluster.etcd}
read -ra client_ports <<<"${CLIENT_PORTS:-2379 22379 32379}"
read -ra peer_ports <<<"${PEER_PORTS:-2380 22380 32380}"
sample_hosts=(10.0.1.10 10.0.1.11 10.0.1.12)
members=(m1 m2 m3)

fail() { echo "cluster: $*" >&2; exit 1; }
say() { echo "cluster | $*"; }

[ ${#client_ports[@]} -eq 3 ] && [ ${#peer_ports[@]} -eq 3 ] ||
  fail "CLIENT_PORTS and PEER_PORTS take three ports each, such as \"2379 22379 32379\""

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
for port in "${client_ports[@]}" "${peer_ports[@]}"; do
  [[ $port =~ ^[0-9]+$ ]] || fail "$port is no port"
  ! listens "$port" || fail "port $port is taken; end what listens there, or choose others with CLIENT_PORTS and PEER_PORTS"
done

mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
# Members find each other by what they remember, not by what a restart is told.
if [ -e "$directory/peer-ports" ] && [ "$(cat "$directory/peer-ports")" != "${peer_ports[*]}" ]; then
  fail "$directory holds a cluster on PEER_PORTS=\"$(cat "$directory/peer-ports")\"; use these, or another DATA_DIR"
fi
echo "${peer_ports[*]}" >"$directory/peer-ports"

# What the member of that place is started with.
config_of() {
  local place=$1 line
  while IFS= read -r line; do
    case $line in
      *'# own') line=${line/m1/${members[place]}} line=${line//${sample_hosts[0]}/${sample_hosts[place]}} ;;
      data-dir:*) line="data-dir: '$directory/${members[place]}'" ;;
    esac
    # One address of its own for each, since all are on one machine.
    line=${line/,http:\/\/127.0.0.1:2379/}
    for other in 0 1 2; do
      line=${line//${sample_hosts[other]}:2379/127.0.0.1:${client_ports[other]}}
      line=${line//${sample_hosts[other]}:2380/127.0.0.1:${peer_ports[other]}}
    done
    printf '%s\n' "$line"
  done <"$sample"
  printf '%s\n' "${SETTINGS:-}"
}

pids=()
running() { kill -0 "${pids[$1]}" 2>/dev/null; }

stopping=
stop() {
  [ -z "$stopping" ] || { kill -KILL "${pids[@]}" 2>/dev/null; return; }
  stopping=yes
  say "stopping; once more to kill"
  kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap stop INT TERM HUP

for place in 0 1 2; do
  config=$directory/${members[place]}.yml
  config_of "$place" >"$config"
  # In a session of its own: Ctrl-C is this script's, which passes it on once. A second signal would end a member at once.
  setsid "$castd" --config-file "$config" </dev/null > >(trap '' INT TERM HUP; exec sed -u "s/^/${members[place]} | /") 2>&1 &
  pids+=($!)
done

healthy() {
  local answer
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
  answer=$(timeout 2 cat <&3) || true
  exec 3>&-
  [[ $answer == *'"health":"true"'* ]]
}

for place in 0 1 2; do
  until [ -n "$stopping" ] || (healthy "${client_ports[place]}") 2>/dev/null; do
    if ! running "$place"; then
      stop
      wait || true
      fail "${members[place]} has ended instead of serving; it says above why"
    fi
    sleep 0.1
  done
done

if [ -z "$stopping" ]; then
  endpoints=$(printf ',127.0.0.1:%s' "${client_ports[@]}")
  endpoints=${endpoints:1}
  say "three members are healthy; in another terminal:"
  say
  say "  export ETCDCTL_API=3 ENDPOINTS=$endpoints"
  say "  etcdctl --endpoints=\$ENDPOINTS endpoint status -w table"
  say "  etcdctl --endpoints=\$ENDPOINTS put lamp on"
  for place in 0 1 2; do
    say "  kill -9 ${pids[place]}    # ${members[place]}"
  done
  say
  say "data: $directory; Ctrl-C stops all"
fi

# Members that end by themselves leave the others to go on, until none is left.
reported=()
status=0
while :; do
  alive=0
  for place in 0 1 2; do
    if running "$place"; then
      alive=1
    elif [ -z "${reported[place]:-}" ]; then
      reported[place]=yes
      code=0
      wait "${pids[place]}" || code=$?
      if [ -z "$stopping" ]; then
        status=1
        say "${members[place]} has ended with $code; again: $castd --config-file $directory/${members[place]}.yml"
      elif [ $code -ne 143 ]; then
        status=1
        say "${members[place]} has ended with $code"
      fi
    fi
  done
  [ $alive -eq 1 ] || break
  sleep 0.2 || true
done
say "all members have ended"
exit $status

# What the lab's shell knows.
lab=/tmp/routemesh-lab
export MESHCTL_CONTROLLER='https://[2001:db8:c::1]:7179' MESHCTL_IDENTITY=$lab/ctl/admin

# on HOST [COMMAND...]: runs a command, or a shell, on a host.
on() {
    local host=$1
    shift
    if [ $# = 0 ]; then set -- env PS1="$host# " bash --norc; fi
    ip netns exec "$host" "$@"
}
meshctl() { on ctl "@BIN@/meshctl" "$@"; }
# bird R1 show route
bird() { on "$1" birdc -r -s "$lab/$1/bird.ctl" "${@:2}"; }
# ipsec V1-1: its security associations, from charon
ipsec() { STRONGSWAN_CONF=$lab/$1/strongswan.conf on "$1" swanctl --list-sas; }
cut() { ip -n public link set "$1" nomaster; }
mend() { ip -n public link set "$1" master switch; }

hosts() {
    cat <<'HOSTS'

  Hosts: V1-1 V1-2 V2-1 V2-2 V3-1 V3-2    gateways, public side
         V1-1-private ...                 gateways, private side
         R1 R2 R3   ctl   public          routers, controller, the public switch

    meshctl topology                      meshctl routes V1-1
    on V1-1-private ip route              on V1-1-private ip nexthop
    on R1 ping 2001:db8:a2::1             bird R1 show route
    ipsec V1-1                            on public tcpdump -ni switch
    cut V2-1                              mend V2-1
    tail -f /tmp/routemesh-lab/V1-1/agent.log           hosts (this), exit (removes all)

HOSTS
}
PS1='lab# '
hosts

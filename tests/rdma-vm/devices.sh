# Two Soft-RoCE devices, each on one end of a veth pair: rxe0 on 10.99.0.1, rxe1 on 10.99.0.2. What
# one sends to the other crosses the pair. All in one network namespace: rxe knows no other.
set -e
ip link set lo up
ip link add veth0 type veth peer name veth1
for i in 0 1; do
    # Take packets from our own addresses; answer ARP for the end's own address only.
    for k in accept_local=1 rp_filter=0 arp_ignore=1 arp_announce=2; do
        echo "${k#*=}" > "/proc/sys/net/ipv4/conf/veth$i/${k%=*}"
    done
    # RoCE's MTU becomes 4096.
    ip link set "veth$i" mtu 9000 up
    ip addr add "10.99.0.$((i + 1))/24" dev "veth$i"
done
echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
/run/modprobe -a rdma_rxe rdma_ucm
for i in 0 1; do rdma link add "rxe$i" type rxe netdev "veth$i"; done

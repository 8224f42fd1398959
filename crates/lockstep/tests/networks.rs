//! Servers in networks of their own, which namespaces of the Linux kernel make: behind routers that
//! translate addresses and let nobody in, and on a local network without tickets.
//!
//! `cargo test --release -p lockstep --test networks -- --ignored --nocapture`, as root, with the
//! programs `ip` and `nft`. Where namespaces can't be made, it says so.

#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "what was not run is said, and how long it took is shown")]

mod support;

use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use support::process::Process;
use support::ring::Server;
use support::{MODEL, PROGRAM, WATCHDOG, home};

/// A network namespace, removed when it is dropped with all that runs in it.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        sh(&format!("ip netns delete {}", self.0)).ok();
    }
}

/// Runs a line of shell; what it says of an error.
fn sh(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{line}: {error}")),
    }
}

impl Namespace {
    fn new(test: &str, name: &str) -> Result<Self, String> {
        let space = Self(format!("lockstep-{}-{test}-{name}", std::process::id()));
        sh(&format!("ip netns add {0} && ip -n {0} link set lo up", space.0))?;
        Ok(space)
    }

    /// Runs a line of shell inside.
    fn run(&self, line: &str) -> Result<(), String> {
        sh(&format!("ip netns exec {} sh -c '{line}'", self.0))
    }

    /// Joins this one with a switch: an interface `inner` with an address.
    fn plug(&self, switch: &Self, inner: &str, address: &str) -> Result<(), String> {
        let outer = format!("to-{inner}-{}", address.replace(['.', '/'], ""));
        let outer = &outer[outer.len().saturating_sub(15)..];
        let (here, there) = (&self.0, &switch.0);
        sh(&format!(
            "ip -n {here} link add dev {inner} type veth peer name {outer} netns {there} && \
             ip -n {there} link set {outer} master switch up && \
             ip -n {here} addr add {address} dev {inner} && ip -n {here} link set {inner} up"
        ))
    }

    /// Makes this one a switch.
    fn switch(&self) -> Result<(), String> {
        sh(&format!(
            "ip -n {0} link add dev switch type bridge && ip -n {0} link set switch up",
            self.0
        ))
    }

    /// Starts the program inside.
    fn start(&self, arguments: &[&str]) -> Process {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, PROGRAM]).args(arguments);
        command.env("LOCKSTEP_HOME", home());
        Process::spawn(command)
    }

    /// Starts a server inside and waits until it has told its ticket.
    fn serve(&self, more: &[&str]) -> Server {
        let arguments = ["serve", MODEL, "--threads", "1", "--ephemeral", "--json"];
        Server::ready(self.start(&[&arguments[..], &["--until-stdin-closes"], more].concat()))
    }

    /// Asks for an answer inside, and returns the report; it has to be verified.
    fn chat(&self, ticket: &str) -> Value {
        let began = Instant::now();
        let ask = ["chat", ticket, "--prompt", "Hi.", "-n", "4", "--temperature", "0", "--json"];
        let report = self.start(&ask).end(WATCHDOG).expect_code(0).json();
        assert_eq!(report["verdict"], "verified", "{report}");
        println!("an answer after {} ms", began.elapsed().as_millis());
        report
    }

    /// Waits until a swarm has this many servers that are ready, as it is seen from inside, and
    /// returns what is seen.
    fn wait_for(&self, ticket: &str, count: usize) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let ended = self.start(&["status", ticket, "--json"]).end(WATCHDOG);
            let seen = if ended.code == Some(0) { ended.json() } else { Value::Null };
            let nodes = seen["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            if nodes.len() == count && nodes.iter().all(|one| one["state"] == "ready") {
                println!("{count} servers ready after {} ms", began.elapsed().as_millis());
                return nodes.to_vec();
            }
            assert!(began.elapsed() < 2 * WATCHDOG, "not {count} servers: {seen}");
        }
    }
}

/// A public network (203.0.113.0/24) and two homes (192.168.7.0/24), each behind a router that
/// translates addresses and lets nobody in.
struct Internet {
    /// A machine of the public network.
    public: Namespace,
    homes: [Namespace; 2],
    routers: [Namespace; 2],
    _switches: Vec<Namespace>,
}

impl Internet {
    fn new(test: &str) -> Result<Self, String> {
        let wide = Namespace::new(test, "wide")?;
        wide.switch()?;
        let public = Namespace::new(test, "public")?;
        public.plug(&wide, "eth0", "203.0.113.1/24")?;
        let mut switches = vec![wide];
        let mut behind = Vec::new();
        for number in [2, 3] {
            let name = |what: &str| format!("{what}{number}");
            let local = Namespace::new(test, &name("local"))?;
            local.switch()?;
            let router = Namespace::new(test, &name("router"))?;
            router.plug(&switches[0], "wan", &format!("203.0.113.{number}/24"))?;
            router.plug(&local, "lan", "192.168.7.1/24")?;
            router.run(
                "echo 1 > /proc/sys/net/ipv4/ip_forward && nft add table ip nat && \
                 nft add chain ip nat out \"{ type nat hook postrouting priority 100 ; }\" && \
                 nft add rule ip nat out oifname wan masquerade && \
                 nft add chain ip nat way \"{ type filter hook forward priority 0 ; }\" && \
                 nft add rule ip nat way iifname wan ct state new drop",
            )?;
            let home = Namespace::new(test, &name("home"))?;
            home.plug(&local, "eth0", "192.168.7.2/24")?;
            home.run("ip route add default via 192.168.7.1")?;
            switches.push(local);
            behind.push((home, router));
        }
        let [(one, router), (other, second)]: [_; 2] =
            behind.try_into().map_err(|_| "two homes".to_owned())?;
        let (homes, routers) = ([one, other], [router, second]);
        Ok(Self { public, homes, routers, _switches: switches })
    }

    /// Starts a relay at the public machine, and returns it with its address.
    fn relay(&self) -> (Process, String) {
        let relay = self.public.start(&["relay", "--bind", "203.0.113.1:4849", "--json"]);
        let line = relay.wait_stdout(WATCHDOG, "address", |text| {
            text.split_once('\n').map(|(line, _)| line.to_owned())
        });
        let told: Value = serde_json::from_str(&line).expect("a line of JSON");
        (relay, told["relay"].as_str().expect("an address").to_owned())
    }
}

/// Three machines of a local network (192.168.9.0/24), and its switch.
fn local_network(test: &str) -> Result<(Namespace, [Namespace; 3]), String> {
    let switch = Namespace::new(test, "switch")?;
    switch.switch()?;
    let machine = |number: u32| {
        let machine = Namespace::new(test, &format!("m{number}"))?;
        machine.plug(&switch, "eth0", &format!("192.168.9.{number}/24"))?;
        Ok::<_, String>(machine)
    };
    let machines = [machine(1)?, machine(2)?, machine(3)?];
    Ok((switch, machines))
}

/// What is made, or nothing and a word why not: not every machine lets namespaces be made.
fn made<T>(made: Result<T, String>) -> Option<T> {
    made.map_err(|why| println!("NOT RUN: no network namespaces here: {}", why.trim_end())).ok()
}

#[test]
#[ignore = "needs root, `ip` and `nft`"]
fn a_server_behind_a_router_joins_through_a_relay_and_serves() {
    let Some(net) = made(Internet::new("nat")) else { return };
    let (_relay, relay) = net.relay();
    let first =
        net.public.serve(&["--layers", "0..15", "--bind", "203.0.113.1:0", "--relay", &relay]);
    let reach = ["--layers", "15..30", "--bind", "0.0.0.0:0", "--join", &first.ticket];
    let second = net.homes[0].serve(&reach);
    net.public.wait_for(&first.ticket, 2);
    assert_eq!(net.public.chat(&first.ticket)["servers"], 2);
    // A client in another home, which has only the ticket of the server that nobody can reach.
    assert_eq!(net.homes[1].chat(&second.ticket)["servers"], 2);
}

#[test]
#[ignore = "needs root, `ip` and `nft`"]
fn where_no_udp_gets_through_all_goes_through_the_relay() {
    let Some(net) = made(Internet::new("tcp")) else { return };
    for router in &net.routers {
        router.run("nft add rule ip nat way meta l4proto udp drop").expect("a rule");
    }
    let (_relay, relay) = net.relay();
    let first =
        net.public.serve(&["--layers", "0..15", "--bind", "203.0.113.1:0", "--relay", &relay]);
    let reach = ["--layers", "15..30", "--bind", "0.0.0.0:0", "--join", &first.ticket];
    let second = net.homes[0].serve(&reach);
    net.public.wait_for(&first.ticket, 2);
    let seen = net.homes[1].wait_for(&second.ticket, 2);
    assert!(seen.iter().all(|one| one["way"] == "relayed"), "{seen:?}");
    assert_eq!(net.homes[1].chat(&second.ticket)["servers"], 2);
}

#[test]
#[ignore = "needs root, `ip` and `nft`"]
fn without_a_relay_a_server_behind_a_router_is_told_so() {
    let Some(net) = made(Internet::new("none")) else { return };
    let server = net.homes[0].serve(&["--bind", "0.0.0.0:0"]);
    let ask = ["chat", &*server.ticket, "--prompt", "Hi.", "--json"];
    let ended = net.public.start(&ask).end(WATCHDOG).expect_code(1);
    assert!(ended.stderr.contains("no answer within"), "{ended}");
}

#[test]
#[ignore = "needs root, `ip` and `nft`"]
fn servers_of_a_local_network_find_each_other_without_tickets() {
    let Some((_switch, [one, two, three])) = made(local_network("lan")) else { return };
    let ended = three.start(&["chat", "lan", "--prompt", "Hi."]).end(WATCHDOG).expect_code(1);
    assert!(ended.stderr.contains("no server on the local network"), "{ended}");
    let first = one.serve(&["--layers", "0..15", "--join", "lan"]);
    let _second = two.serve(&["--layers", "15..30", "--join", "lan"]);
    three.wait_for(&first.ticket, 2);
    assert_eq!(three.chat("lan")["servers"], 2);
    let plan = three.start(&["plan", "lan", "--json"]).end(WATCHDOG).expect_code(0).json();
    assert_eq!(plan["servers"], 2, "{plan}");
}

#[test]
#[ignore = "needs root, `ip` and `nft`"]
fn servers_of_a_local_network_that_start_at_the_same_moment_share_the_layers_out() {
    let Some((_switch, machines)) = made(local_network("same")) else { return };
    // There is memory for some twelve of thirty layers.
    let arguments = ["serve", MODEL, "--threads", "1", "--ephemeral", "--json"];
    let more = ["--until-stdin-closes", "--join", "lan", "--memory", "80"];
    let started = machines.each_ref().map(|one| one.start(&[&arguments[..], &more[..]].concat()));
    let servers = started.map(Server::ready);
    machines[0].wait_for(&servers[0].ticket, 3);
    assert_eq!(machines[1].chat("lan")["servers"], 3);
}

//! Random operations, here and on a model of what the kernel makes of them.

use crate::{group, id, key, open, via, with_wan};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use routemesh_agent::kernel::{Kernel, Observed, Op};
use routemesh_agent::state::{Group, Member, Nexthop, NexthopId, RouteKey, Target};
use std::collections::{BTreeMap, BTreeSet};

const PREFIXES: [&str; 4] = [
    "10.1.0.0/24",
    "10.0.0.0/8",
    "2001:db8:a1::/64",
    "2001:db8:a0::/44",
];

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    nexthops: BTreeMap<NexthopId, Nexthop>,
    groups: BTreeMap<NexthopId, Group>,
    routes: BTreeMap<RouteKey, Target>,
}

impl From<Observed> for Model {
    fn from(observed: Observed) -> Self {
        let Observed {
            nexthops,
            groups,
            routes,
            ..
        } = observed;
        Self {
            nexthops,
            groups,
            routes,
        }
    }
}

impl Model {
    /// Whether the operation succeeds.
    fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::PutNexthop {
                id,
                nexthop,
                replace,
            } => put(&mut self.nexthops, *id, nexthop, *replace),
            Op::PutGroup { id, group, replace } => {
                let members = &group.members;
                let known = |member: &Member| self.nexthops.contains_key(&member.id);
                // What is there is refused, or already so, before its members are looked at.
                let there = self.groups.contains_key(id) && !replace;
                (there || !members.is_empty() && members.iter().all(known))
                    && put(&mut self.groups, *id, group, *replace)
            }
            Op::PutRoute {
                key,
                target,
                replace,
            } => {
                let known = match target {
                    Target::Group(id) => self.groups.contains_key(id),
                    Target::Unreachable => true,
                };
                known && put(&mut self.routes, *key, target, *replace)
            }
            Op::DelNexthop { id } => {
                self.nexthops.remove(id);
                for group in self.groups.values_mut() {
                    group.members.retain(|member| member.id != *id);
                }
                self.groups.retain(|_, group| !group.members.is_empty());
                self.sweep()
            }
            Op::DelGroup { id } => {
                self.groups.remove(id);
                self.sweep()
            }
            Op::DelRoute { key } => {
                self.routes.remove(key);
                true
            }
            _ => false,
        }
    }

    /// Routes go with their group.
    fn sweep(&mut self) -> bool {
        self.routes.retain(|_, target| match target {
            Target::Group(id) => self.groups.contains_key(id),
            Target::Unreachable => true,
        });
        true
    }
}

fn put<K: Ord, V: Clone + PartialEq>(
    held: &mut BTreeMap<K, V>,
    key: K,
    value: &V,
    replace: bool,
) -> bool {
    if let Some(there) = held.get(&key)
        && !replace
    {
        return there == value;
    }
    held.insert(key, value.clone());
    true
}

fn op() -> impl Strategy<Value = Op> {
    let nexthop = 1u32..5;
    let number = (10u32..13).prop_map(id);
    let route = (proptest::sample::select(&PREFIXES), any::<bool>())
        .prop_map(|(prefix, worst)| key(prefix, if worst { u32::MAX } else { 50 }));
    let target = prop_oneof![
        3 => number.clone().prop_map(Target::Group),
        1 => Just(Target::Unreachable),
    ];
    let members = proptest::collection::btree_map(nexthop.clone(), 1u16..=256, 0..4)
        .prop_map(|members| group(&members.into_iter().collect::<Vec<_>>()));
    prop_oneof![
        3 => (nexthop.clone(), 1u16..3, any::<bool>()).prop_map(|(number, host, replace)| {
            let nexthop = via(&format!("2001:db8:ff::{host}:{number}"));
            Op::PutNexthop { id: id(number), nexthop, replace }
        }),
        3 => (number.clone(), members, any::<bool>())
            .prop_map(|(id, group, replace)| Op::PutGroup { id, group, replace }),
        4 => (route.clone(), target, any::<bool>())
            .prop_map(|(key, target, replace)| Op::PutRoute { key, target, replace }),
        1 => nexthop.prop_map(|number| Op::DelNexthop { id: id(number) }),
        1 => number.prop_map(|id| Op::DelGroup { id }),
        1 => route.prop_map(|key| Op::DelRoute { key }),
    ]
}

/// Every result and every state is the model's.
async fn one_by_one(kernel: &Kernel, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    for op in ops {
        let results = kernel.apply(std::slice::from_ref(op)).await;
        prop_assert_eq!(
            results[0].is_ok(),
            model.apply(op),
            "{} gives {:?}",
            op,
            results
        );
        let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
        prop_assert_eq!(&Model::from(observed), &model, "after {}", op);
    }
    Ok(())
}

/// All at once come to the same.
async fn together(kernel: &Kernel, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    for op in ops {
        model.apply(op);
    }
    prop_assert_eq!(kernel.apply(ops).await.len(), ops.len());
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    prop_assert_eq!(Model::from(observed), model);
    Ok(())
}

async fn clear(kernel: &Kernel) -> Result<(), TestCaseError> {
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    let routes = observed.routes.into_keys().map(|key| Op::DelRoute { key });
    let groups = observed.groups.into_keys().map(|id| Op::DelGroup { id });
    let nexthops = observed
        .nexthops
        .into_keys()
        .map(|id| Op::DelNexthop { id });
    let ops: Vec<Op> = routes.chain(groups).chain(nexthops).collect();
    kernel.apply(&ops).await;
    let observed = kernel.observe(&BTreeSet::new()).await.expect("observed");
    prop_assert_eq!(Model::from(observed), Model::default());
    Ok(())
}

#[test]
fn the_kernel_does_as_the_model() {
    let space = with_wan();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let kernel = open(&space);
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    let sequences = proptest::collection::vec(op(), 0..40);
    let result = TestRunner::new(config).run(&sequences, |ops| {
        runtime.block_on(async {
            clear(&kernel).await?;
            one_by_one(&kernel, &ops).await?;
            clear(&kernel).await?;
            together(&kernel, &ops).await
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

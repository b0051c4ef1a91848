//! A message from one core to another and back.
//!
//! Limit: a wake-up of a sleeping core, twice. A spinning receiver is handed a message in about 26 µs where the other vCPU is
//! awake and 56–106 µs where it sleeps (two-core virtual machine); in one batch of 64 the wake-up is paid once.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use qmesh::runtime::{CorePlan, Loop, inbox, start_core};
use tokio::sync::oneshot;

type Message = (u64, oneshot::Sender<u64>);

fn hop(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inbox");
    for busy_poll_us in [0u64, 50] {
        let (sender, mut receiver) = inbox::<Message>(1024);
        let plan = CorePlan { index: 1, cpu: None, event_loop: Loop::Plain };
        let thread = start_core(plan, move || async move {
            let mut messages = Vec::new();
            loop {
                receiver.receive(&mut messages, 64, Duration::from_micros(busy_poll_us)).await;
                for (number, reply) in messages.drain(..) {
                    if number == u64::MAX {
                        return;
                    }
                    let _ = reply.send(number);
                }
                tokio::task::yield_now().await;
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
        for batch in [1u64, 64] {
            group.throughput(Throughput::Elements(batch));
            let id = BenchmarkId::new(format!("hop and back, busy poll {busy_poll_us} us"), batch);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|rounds| {
                    runtime.block_on(async {
                        let began = Instant::now();
                        for _ in 0..rounds {
                            let answers: Vec<_> = (0..batch)
                                .map(|number| {
                                    let (reply, answer) = oneshot::channel();
                                    assert!(sender.push((number, reply)).is_ok(), "the inbox is larger than a batch");
                                    answer
                                })
                                .collect();
                            for answer in answers {
                                answer.await.expect("the other core answers");
                            }
                        }
                        began.elapsed()
                    })
                });
            });
        }
        let (reply, _) = oneshot::channel();
        assert!(sender.push((u64::MAX, reply)).is_ok());
        drop(thread.map(std::thread::JoinHandle::join));
    }
    group.finish();
}

criterion_group!(benches, hop);
criterion_main!(benches);

//! Questions on their way to agents, and the pieces of the answers on their way back. Both are bounded: an
//! agent that does not answer, and a person who does not read, cost others nothing.

use super::state::lock;
use prost::Message;
use routemesh_proto::{Answer, Ask, Stop, answer, ask};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

/// Questions of one gateway at a time: an agent takes four.
const AT_ONCE: usize = 4;
/// Questions on their way to one agent, and orders to stop.
const QUEUE: usize = 16;
/// Pieces of one answer that wait for whoever asked, and octets of one.
const PIECES: usize = 64;
const LARGEST: usize = 64 << 10;
/// An agent that has said nothing by then does not know the question, or is too busy for it.
const FIRST: Duration = Duration::from_secs(8);
/// No question takes longer.
const LONGEST: Duration = Duration::from_secs(660);

/// The agents that can be asked, and what they are being asked.
#[derive(Debug, Default)]
pub(super) struct Asks {
    agents: Mutex<HashMap<String, Agent>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Agent {
    /// Of its stream.
    stream: u64,
    version: String,
    questions: mpsc::Sender<Ask>,
    waiting: HashMap<u64, mpsc::Sender<Answer>>,
}

/// An agent's place among those that can be asked, for as long as its stream lasts.
pub(super) struct Seat {
    asks: Arc<Asks>,
    gateway: String,
    stream: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut agents = lock(&self.asks.agents);
        if agents.get(&self.gateway).map(|it| it.stream) == Some(self.stream) {
            agents.remove(&self.gateway);
        }
    }
}

impl Seat {
    /// Which version of the agent it is.
    pub(super) fn is_of(&self, version: &str) {
        let mut agents = lock(&self.asks.agents);
        if let Some(agent) = agents.get_mut(&self.gateway) {
            version.clone_into(&mut agent.version);
        }
    }

    /// A piece that came over the agent's stream.
    pub(super) fn answered(&self, answer: Answer) {
        let mut agents = lock(&self.asks.agents);
        let agent = agents.get_mut(&self.gateway);
        let Some(agent) = agent.filter(|it| it.stream == self.stream) else {
            return;
        };
        let (id, last) = (answer.id, answer.last);
        let Some(place) = agent.waiting.get(&id) else {
            return;
        };
        // Whoever reads too slowly gets no more.
        let fits = answer.encoded_len() <= LARGEST;
        if !fits || place.try_send(answer).is_err() || last {
            agent.waiting.remove(&id);
            if !last || !fits {
                let _ = agent.questions.try_send(stop(id));
            }
        }
    }
}

fn stop(id: u64) -> Ask {
    Ask {
        id,
        question: Some(ask::Question::Stop(Stop {})),
    }
}

impl Asks {
    /// An agent's stream has begun: what it is asked comes out of the other end.
    pub(super) fn attach(self: &Arc<Self>, gateway: &str) -> (Seat, mpsc::Receiver<Ask>) {
        let (questions, out) = mpsc::channel(QUEUE);
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let agent = Agent {
            stream,
            version: String::new(),
            questions,
            waiting: HashMap::new(),
        };
        lock(&self.agents).insert(gateway.to_owned(), agent);
        let seat = Seat {
            asks: self.clone(),
            gateway: gateway.to_owned(),
            stream,
        };
        (seat, out)
    }

    /// Asks a gateway.
    #[allow(clippy::result_large_err)]
    pub(super) fn ask(
        self: &Arc<Self>,
        gateway: &str,
        question: ask::Question,
    ) -> Result<Pieces, Status> {
        let mut agents = lock(&self.agents);
        let agent = agents.get_mut(gateway).ok_or_else(|| {
            let text = format!(
                "{gateway} cannot be asked: its agent is not connected to this controller; is mesh-agent running there, and can it reach the controller?"
            );
            Status::failed_precondition(text)
        })?;
        agent.waiting.retain(|_, place| !place.is_closed());
        let busy = || {
            let text = format!("{gateway} is being asked other things: try again in a while");
            Status::resource_exhausted(text)
        };
        if agent.waiting.len() >= AT_ONCE {
            return Err(busy());
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let question = Some(question);
        let asked = agent.questions.try_send(Ask { id, question });
        asked.map_err(|_| busy())?;
        let (place, pieces) = mpsc::channel(PIECES);
        agent.waiting.insert(id, place);
        let now = Instant::now();
        Ok(Pieces {
            asks: self.clone(),
            gateway: gateway.to_owned(),
            version: agent.version.clone(),
            id,
            pieces,
            first: Some(now + FIRST),
            end: now + LONGEST,
            over: false,
        })
    }

    fn stop(&self, gateway: &str, id: u64) {
        let mut agents = lock(&self.agents);
        if let Some(agent) = agents.get_mut(gateway)
            && agent.waiting.remove(&id).is_some()
        {
            let _ = agent.questions.try_send(stop(id));
        }
    }
}

/// The pieces of an answer. Dropped, the agent is told to stop.
pub(super) struct Pieces {
    asks: Arc<Asks>,
    gateway: String,
    version: String,
    id: u64,
    pieces: mpsc::Receiver<Answer>,
    /// Until when the first is waited for.
    first: Option<Instant>,
    end: Instant,
    over: bool,
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.asks.stop(&self.gateway, self.id);
    }
}

impl Pieces {
    /// The next one; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Result<answer::Piece, Status>> {
        while !self.over {
            let until = self.first.unwrap_or(self.end);
            let answer = match timeout_at(until, self.pieces.recv()).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return self.fails(Status::failed_precondition(format!(
                    "{}'s answer is not whole: its agent has left, or has said more than could be taken",
                    self.gateway
                ))),
                Err(_) if self.first.is_some() => return self.fails(Status::failed_precondition(format!(
                    "{} does not answer: its agent (version {:?}) does not know such questions yet, or is too busy",
                    self.gateway, self.version
                ))),
                Err(_) => return self.fails(Status::failed_precondition(format!(
                    "{} did not end its answer",
                    self.gateway
                ))),
            };
            self.first = None;
            self.over = answer.last;
            if !answer.error.is_empty() {
                // What an agent says is shown to people.
                let error: String = answer.error.chars().take(1000).collect();
                let text = format!("{}: {error}", self.gateway);
                return self.fails(Status::failed_precondition(text));
            }
            if let Some(piece) = answer.piece {
                return Some(Ok(piece));
            }
        }
        None
    }

    fn fails(&mut self, status: Status) -> Option<Result<answer::Piece, Status>> {
        self.over = true;
        Some(Err(status))
    }

    /// All of them, if there are no more than this.
    pub(super) async fn all(mut self, most: usize) -> Result<Vec<answer::Piece>, Status> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await {
            all.push(piece?);
            if all.len() >= most {
                break;
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto::{AskWalk, Echo};
    use tonic::Code;

    fn walk() -> ask::Question {
        ask::Question::Walk(AskWalk::default())
    }

    fn echo(id: u64, sequence: u32, last: bool) -> Answer {
        let echo = Echo {
            sequence,
            ..Echo::default()
        };
        Answer {
            id,
            piece: (sequence > 0).then_some(answer::Piece::Echo(echo)),
            last,
            error: String::new(),
        }
    }

    async fn code(pieces: &mut Pieces) -> Option<Result<u32, Code>> {
        Some(match pieces.next().await? {
            Ok(answer::Piece::Echo(echo)) => Ok(echo.sequence),
            Ok(other) => panic!("{other:?}"),
            Err(status) => Err(status.code()),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_find_whoever_asked() {
        let asks = Arc::new(Asks::default());
        assert_eq!(
            asks.ask("A", walk()).map(drop).map_err(|it| it.code()),
            Err(Code::FailedPrecondition)
        );
        let (seat, mut questions) = asks.attach("A");
        let (mut one, mut two) = (
            asks.ask("A", walk()).unwrap(),
            asks.ask("A", walk()).unwrap(),
        );
        let [first, second] = [questions.recv().await, questions.recv().await];
        let (first, second) = (first.unwrap().id, second.unwrap().id);
        seat.answered(echo(second, 0, false));
        seat.answered(echo(second, 2, true));
        seat.answered(echo(first, 1, false));
        // Of no question, and of one that is over.
        seat.answered(echo(99, 9, false));
        seat.answered(echo(second, 9, false));
        assert_eq!(code(&mut one).await, Some(Ok(1)));
        assert_eq!(code(&mut two).await, Some(Ok(2)));
        assert_eq!(code(&mut two).await, None);
        // Who does not wait any longer says so; who has its answer does not.
        drop((one, two));
        assert_eq!(questions.recv().await.unwrap(), stop(first));
        assert!(questions.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_leaves_or_is_too_old_ends_the_answer() {
        let asks = Arc::new(Asks::default());
        let (seat, _questions) = asks.attach("A");
        seat.is_of("0.0.1");
        let mut old = asks.ask("A", walk()).unwrap();
        let said = old.next().await.unwrap().unwrap_err();
        assert!(said.message().contains("0.0.1"), "{said:?}");
        assert_eq!(code(&mut old).await, None);

        let mut left = asks.ask("A", walk()).unwrap();
        // A second stream of the gateway takes its place; the first one's end does not end that.
        let (other, mut questions) = asks.attach("A");
        drop(seat);
        assert_eq!(code(&mut left).await, Some(Err(Code::FailedPrecondition)));
        let mut waits = asks.ask("A", walk()).unwrap();
        let id = questions.recv().await.unwrap().id;
        other.answered(echo(id, 3, true));
        assert_eq!(code(&mut waits).await, Some(Ok(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_bound_to_questions_and_to_pieces() {
        let asks = Arc::new(Asks::default());
        let (seat, mut questions) = asks.attach("A");
        let mut asked: Vec<Pieces> = (0..AT_ONCE)
            .map(|_| asks.ask("A", walk()).unwrap())
            .collect();
        let refused = asks.ask("A", walk()).map(drop).map_err(|it| it.code());
        assert_eq!(refused, Err(Code::ResourceExhausted));
        let id = questions.recv().await.unwrap().id;
        for n in 1..=1000 {
            seat.answered(echo(id, n, false));
        }
        let slow = &mut asked[0];
        let mut last = None;
        while let Some(piece) = code(slow).await {
            last = Some(piece);
        }
        assert_eq!(last, Some(Err(Code::FailedPrecondition)));
        drop(asked);
        asks.ask("A", walk()).unwrap();
    }
}

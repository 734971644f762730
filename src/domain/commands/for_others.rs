//! The commands of other nodes that were sent to sockets here.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use uuid::Uuid;

use crate::domain::ids::{ClientId, CommandId};

/// Commands that are remembered for one client. The answer to one that is forgotten goes to all nodes.
const REMEMBERED: usize = 1000;

/// Commands that are remembered for all clients.
const REMEMBERED_OF_ALL: usize = 100_000;

/// Commands without further answers that are remembered for one client: the last ones. More are not handed over again, since
/// of those that may wait an owner hands over one at a time.
const CLOSED: usize = 32;

/// The commands of other nodes that were sent to sockets here, in memory, until the socket is lost. An answer may come after the
/// command has ended at its node, or when that has another owner.
#[derive(Debug, Default)]
pub struct CommandsForOthers {
    clients: HashMap<ClientId, Sent>,
    /// what is not answered; the ids are in the order of time
    open: BTreeSet<(CommandId, ClientId)>,
}

/// What was sent to the socket of a client.
#[derive(Debug)]
struct Sent {
    /// the number of the socket
    session: u64,
    /// what is not answered
    open: BTreeMap<CommandId, Open>,
    /// the last ones that are answered or cancelled
    closed: VecDeque<CommandId>,
}

/// A command that is not answered.
#[derive(Debug, Clone, Copy)]
struct Open {
    owner: Uuid,
    /// it may be handed over again, also by another owner
    may_wait: bool,
}

/// What is known of a command here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It was sent for this node.
    Of(Uuid),
    /// It needs no answer any more.
    Closed,
    /// Nothing.
    Not,
}

/// The commands of each node that are lost with a socket.
pub type LostCommands = BTreeMap<Uuid, Vec<CommandId>>;

impl CommandsForOthers {
    /// A command of another node was sent. Returns what was sent to an earlier socket of the client, which is lost.
    pub fn sent(
        &mut self,
        owner: Uuid,
        command: CommandId,
        client: ClientId,
        session: u64,
        may_wait: bool,
    ) -> LostCommands {
        let earlier = self.clients.get(&client).filter(|sent| sent.session != session).map(|sent| sent.session);
        let lost = earlier.map(|earlier| self.session_lost(client, earlier)).unwrap_or_default();
        let new = || Sent { session, open: BTreeMap::new(), closed: VecDeque::new() };
        let sent = self.clients.entry(client).or_insert_with(new);
        sent.closed.retain(|closed| *closed != command);
        sent.open.insert(command, Open { owner, may_wait });
        self.open.insert((command, client));
        if sent.open.len() > REMEMBERED
            && let Some((oldest, _)) = sent.open.pop_first()
        {
            self.open.remove(&(oldest, client));
        }
        if self.open.len() > REMEMBERED_OF_ALL
            && let Some((oldest, of)) = self.open.pop_first()
        {
            self.take(oldest, of);
            self.forget_empty(of);
        }
        lost
    }

    /// A command is handed over, perhaps once more, and perhaps by another owner. Returns whether it was sent to this socket
    /// before, which counts for the present owner.
    pub fn was_sent(&mut self, owner: Uuid, command: CommandId, client: ClientId, session: u64) -> bool {
        let was_sent = self.clients.get(&client).is_some_and(|sent| {
            sent.session == session && (sent.open.contains_key(&command) || sent.closed.contains(&command))
        });
        if was_sent {
            // if its answer is lost, it ends at its owner with the socket
            self.sent(owner, command, client, session, true);
        }
        was_sent
    }

    /// What is known of a command that a client says something about.
    pub fn known(&self, command: CommandId, client: ClientId) -> Known {
        let Some(sent) = self.clients.get(&client) else { return Known::Not };
        match sent.open.get(&command) {
            Some(open) => Known::Of(open.owner),
            None if sent.closed.contains(&command) => Known::Closed,
            None => Known::Not,
        }
    }

    /// The number of the socket that a command was sent to, unless it is closed.
    pub fn session(&self, command: CommandId, client: ClientId) -> Option<u64> {
        self.clients.get(&client).filter(|sent| sent.open.contains_key(&command)).map(|sent| sent.session)
    }

    /// A client has answered a command, or it is cancelled. Returns what was known of it.
    pub fn close(&mut self, command: CommandId, client: ClientId) -> Known {
        let known = self.known(command, client);
        let may_wait = self.take(command, client).is_some_and(|open| open.may_wait);
        if may_wait && let Some(sent) = self.clients.get_mut(&client) {
            sent.closed.push_back(command);
            if sent.closed.len() > CLOSED {
                sent.closed.pop_front();
            }
        }
        self.forget_empty(client);
        known
    }

    /// A socket is lost.
    pub fn session_lost(&mut self, client: ClientId, session: u64) -> LostCommands {
        let mut lost = LostCommands::new();
        if self.clients.get(&client).is_some_and(|sent| sent.session == session)
            && let Some(sent) = self.clients.remove(&client)
        {
            for (command, open) in sent.open {
                self.open.remove(&(command, client));
                lost.entry(open.owner).or_default().push(command);
            }
        }
        lost
    }

    fn take(&mut self, command: CommandId, client: ClientId) -> Option<Open> {
        self.open.remove(&(command, client));
        self.clients.get_mut(&client)?.open.remove(&command)
    }

    fn forget_empty(&mut self, client: ClientId) {
        if self.clients.get(&client).is_some_and(|sent| sent.open.is_empty() && sent.closed.is_empty()) {
            self.clients.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    const NODES: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];

    fn is_empty(commands: &CommandsForOthers) -> bool {
        commands.clients.is_empty() && commands.open.is_empty()
    }

    #[test]
    fn an_answer_goes_to_the_node_of_its_command_once() {
        let (mut commands, client) = (CommandsForOthers::default(), ClientId::random());
        let [one, two] = [(); 2].map(|()| CommandId::new(Utc::now()));
        for (owner, command) in NODES.into_iter().zip([one, two]) {
            assert!(commands.sent(owner, command, client, 7, false).is_empty());
        }
        assert_eq!((commands.known(one, client), commands.session(two, client)), (Known::Of(NODES[0]), Some(7)));
        assert_eq!(commands.close(one, ClientId::random()), Known::Not);
        assert_eq!(commands.close(one, client), Known::Of(NODES[0]));
        assert_eq!(commands.close(one, client), Known::Not);
        assert_eq!(commands.close(two, client), Known::Of(NODES[1]));
        assert!(is_empty(&commands));
    }

    #[test]
    fn what_was_sent_to_a_socket_is_lost_with_it_or_when_a_newer_one_gets_commands() {
        let (mut commands, client) = (CommandsForOthers::default(), ClientId::random());
        let [one, two, three] = [(); 3].map(|()| CommandId::new(Utc::now()));
        commands.sent(NODES[0], one, client, 7, true);
        commands.sent(NODES[1], two, client, 7, true);
        assert_eq!(
            commands.sent(NODES[0], three, client, 8, true),
            LostCommands::from([(NODES[0], vec![one]), (NODES[1], vec![two])])
        );
        // it was replaced already
        assert!(commands.session_lost(client, 7).is_empty());
        assert_eq!(commands.session_lost(client, 8), LostCommands::from([(NODES[0], vec![three])]));
        assert!(is_empty(&commands));
    }

    #[test]
    fn what_was_sent_to_a_socket_is_known_when_another_owner_hands_it_over_also_after_its_answer() {
        let (mut commands, client) = (CommandsForOthers::default(), ClientId::random());
        let [open, answered, new] = [(); 3].map(|()| CommandId::new(Utc::now()));
        commands.sent(NODES[0], open, client, 7, true);
        commands.sent(NODES[0], answered, client, 7, true);
        assert_eq!(commands.close(answered, client), Known::Of(NODES[0]));
        assert_eq!(commands.known(answered, client), Known::Closed);
        // to another socket it was not sent
        assert!(!commands.was_sent(NODES[1], open, client, 8) && !commands.was_sent(NODES[1], new, client, 7));
        for command in [open, answered] {
            assert!(commands.was_sent(NODES[1], command, client, 7));
            assert_eq!(commands.known(command, client), Known::Of(NODES[1]));
        }
        let both = vec![open.min(answered), open.max(answered)];
        assert_eq!(commands.session_lost(client, 7), LostCommands::from([(NODES[1], both)]));
        assert!(is_empty(&commands));
    }

    #[test]
    fn the_oldest_of_a_client_and_of_all_are_forgotten_when_there_are_too_many() {
        let (mut commands, client) = (CommandsForOthers::default(), ClientId::random());
        let mut ids: Vec<_> = (0..=REMEMBERED_OF_ALL).map(|_| CommandId::new(Utc::now())).collect();
        ids.sort_unstable();
        for id in &ids[..=REMEMBERED] {
            commands.sent(NODES[0], *id, client, 7, true);
        }
        assert_eq!((commands.known(ids[0], client), commands.known(ids[1], client)), (Known::Not, Known::Of(NODES[0])));
        assert_eq!(commands.clients[&client].open.len(), REMEMBERED);
        for id in &ids[1..=CLOSED + 1] {
            commands.close(*id, client);
        }
        assert_eq!(commands.clients[&client].closed.len(), CLOSED);
        assert_eq!(commands.known(ids[CLOSED + 1], client), Known::Closed);
        commands.session_lost(client, 7);
        for id in &ids {
            commands.sent(NODES[0], *id, ClientId::random(), 8, true);
        }
        assert_eq!((commands.clients.len(), commands.open.len()), (REMEMBERED_OF_ALL, REMEMBERED_OF_ALL));
        assert_eq!(commands.open.first().map(|(id, _)| *id), Some(ids[1]));
    }
}

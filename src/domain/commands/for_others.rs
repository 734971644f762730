//! The commands of other nodes that were sent to sockets here.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::domain::ids::{ClientId, CommandId};

/// Commands that are remembered for one client. The answer to one that is forgotten goes to all nodes.
const REMEMBERED: usize = 1000;

/// The commands of other nodes that were sent to sockets here and are not answered, in memory. An answer may come after the command
/// has ended at its node.
#[derive(Debug, Default)]
pub struct CommandsForOthers(HashMap<ClientId, Sent>);

/// What was sent to the socket of a client.
#[derive(Debug)]
struct Sent {
    /// the number of the socket
    session: u64,
    /// with their owners; by their ids, which are in the order of time
    commands: BTreeMap<CommandId, Uuid>,
}

/// The commands of each node that are lost with a socket.
pub type LostCommands = BTreeMap<Uuid, Vec<CommandId>>;

impl CommandsForOthers {
    /// A command of another node was sent. Returns what was sent to an earlier socket of the client, which is lost.
    pub fn sent(&mut self, owner: Uuid, command: CommandId, client: ClientId, session: u64) -> LostCommands {
        let earlier = self.0.get(&client).filter(|sent| sent.session != session).map(|sent| sent.session);
        let lost = earlier.map(|earlier| self.session_lost(client, earlier)).unwrap_or_default();
        let sent = self.0.entry(client).or_insert_with(|| Sent { session, commands: BTreeMap::new() });
        sent.commands.insert(command, owner);
        if sent.commands.len() > REMEMBERED {
            sent.commands.pop_first();
        }
        lost
    }

    /// The node whose command this is.
    pub fn owner(&self, command: CommandId, client: ClientId) -> Option<Uuid> {
        self.0.get(&client)?.commands.get(&command).copied()
    }

    /// The number of the socket that a command was sent to.
    pub fn session(&self, command: CommandId, client: ClientId) -> Option<u64> {
        self.0.get(&client).filter(|sent| sent.commands.contains_key(&command)).map(|sent| sent.session)
    }

    /// A client has answered. Returns the node whose command it is.
    pub fn answered(&mut self, command: CommandId, client: ClientId) -> Option<Uuid> {
        let sent = self.0.get_mut(&client)?;
        let owner = sent.commands.remove(&command);
        if sent.commands.is_empty() {
            self.0.remove(&client);
        }
        owner
    }

    /// A socket is lost.
    pub fn session_lost(&mut self, client: ClientId, session: u64) -> LostCommands {
        let mut lost = LostCommands::new();
        if self.0.get(&client).is_some_and(|sent| sent.session == session)
            && let Some(sent) = self.0.remove(&client)
        {
            for (command, owner) in sent.commands {
                lost.entry(owner).or_default().push(command);
            }
        }
        lost
    }

    /// A node has left: its commands end there, if it lives.
    pub fn forget(&mut self, owner: Uuid) {
        self.0.retain(|_, sent| {
            sent.commands.retain(|_, of| *of != owner);
            !sent.commands.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    const NODES: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];

    #[test]
    fn an_answer_goes_to_the_node_of_its_command_once() {
        let (mut commands, client) = (CommandsForOthers::default(), ClientId::random());
        let [one, two] = [(); 2].map(|()| CommandId::new(Utc::now()));
        for (owner, command) in NODES.into_iter().zip([one, two]) {
            assert!(commands.sent(owner, command, client, 7).is_empty());
        }
        assert_eq!((commands.owner(one, client), commands.session(two, client)), (Some(NODES[0]), Some(7)));
        assert_eq!(commands.answered(one, ClientId::random()), None);
        assert_eq!(commands.answered(one, client), Some(NODES[0]));
        assert_eq!(commands.answered(one, client), None);
        assert_eq!(commands.answered(two, client), Some(NODES[1]));
        assert!(commands.0.is_empty());
    }

    #[test]
    fn what_was_sent_to_a_socket_is_lost_with_it_or_when_a_newer_one_gets_commands() {
        let (mut commands, client) = (CommandsForOthers::default(), ClientId::random());
        let [one, two, three] = [(); 3].map(|()| CommandId::new(Utc::now()));
        commands.sent(NODES[0], one, client, 7);
        commands.sent(NODES[1], two, client, 7);
        assert_eq!(
            commands.sent(NODES[0], three, client, 8),
            LostCommands::from([(NODES[0], vec![one]), (NODES[1], vec![two])])
        );
        // it was replaced already
        assert!(commands.session_lost(client, 7).is_empty());
        assert_eq!(commands.session_lost(client, 8), LostCommands::from([(NODES[0], vec![three])]));
        assert!(commands.0.is_empty());
    }

    #[test]
    fn the_commands_of_a_node_are_forgotten_when_it_leaves_and_the_oldest_of_a_client_when_there_are_too_many() {
        let (mut commands, client) = (CommandsForOthers::default(), ClientId::random());
        let ids: Vec<_> = (0..=REMEMBERED).map(|_| CommandId::new(Utc::now())).collect();
        let oldest = ids.iter().min().copied().unwrap();
        for id in &ids {
            commands.sent(NODES[0], *id, client, 7);
        }
        assert!(commands.owner(oldest, client).is_none());
        assert_eq!(commands.0[&client].commands.len(), REMEMBERED);
        commands.sent(NODES[1], oldest, ClientId::random(), 8);
        commands.forget(NODES[0]);
        assert_eq!(commands.0.len(), 1);
        commands.forget(NODES[1]);
        assert!(commands.0.is_empty());
    }
}

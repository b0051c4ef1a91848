//! Applies commands: the only place where the state changes.
//!
//! Promises: deterministic; a refused command changes nothing but the memory of its refusal; every accepted one leaves a
//! state that [`State::check`] passes; the epoch grows exactly when members, placement or policy differ.
//! Does not: say who may ask.

use crate::control::placement::of_cluster;
use crate::control::state::Answered;
use crate::control::{
    Accepted, Action, Bootstrap, CERTIFICATE_LIFETIME_MS_MAX, CERTIFICATES_MAX, CertificateFact, CertificateRecord,
    Change, Cluster, Command, Group, GroupConfig, JoinToken, MEMBERS_MAX, Member, MemberState, Outcome, Policy,
    REMOVED_KEPT_MAX, REPLICATION_FACTOR_MAX, REQUESTS_KEPT_MAX, Refused, Role, SHARDS_MAX, SLOTS_MAX, Serial,
    Standing, State, TOKEN_LIFETIME_MS_MAX, TOKENS_MAX, TokenId, TokenUse, Wanted, Warning, wire,
};
use crate::control::{Addresses, Name};
use crate::ids::{Epoch, LogIndex, NodeId, ShardId};

impl State {
    /// Applies the command that was committed at `index`.
    ///
    /// # Panics
    /// When `index` is not larger than that of the last command: the group's log hands each command out once, in order.
    pub fn apply(&mut self, index: LogIndex, command: &Command) -> Outcome {
        assert!(self.applied < index, "a command was applied out of order: {} after {}", index.0, self.applied.0);
        self.applied = index;
        let action_digest = wire::action_digest(&command.action);
        if let Some(answered) = self.recent.iter().find(|answered| answered.request == command.request) {
            let same = answered.action_digest == action_digest;
            return if same { answered.outcome.clone() } else { Err(Refused::RequestReused) };
        }
        let outcome = match self.decide(command) {
            Ok((cluster, accepted)) => {
                self.cluster = Some(cluster);
                Ok(accepted)
            }
            Err(refused) => Err(refused),
        };
        if self.recent.len() == REQUESTS_KEPT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Answered { request: command.request, action_digest, outcome: outcome.clone() });
        debug_assert_eq!(self.check(), Ok(()), "after {command:?}");
        outcome
    }

    /// The cluster after the command, and what to answer.
    fn decide(&self, command: &Command) -> Result<(Cluster, Accepted), Refused> {
        let now_ms = command.now_ms;
        let Some(before) = &self.cluster else {
            let Action::Bootstrap(bootstrap) = &command.action else { return Err(Refused::NotBootstrapped) };
            let mut cluster = Cluster::form(now_ms, bootstrap)?;
            cluster.wished = of_cluster(&cluster);
            let change = Change::Bootstrapped { node: FIRST };
            let accepted = Accepted { epoch: cluster.epoch, change, warnings: cluster.warnings() };
            return Ok((cluster, accepted));
        };
        let mut cluster = before.clone();
        cluster.forget(now_ms);
        let change = cluster.decide(now_ms, &command.action)?;
        let warnings = if cluster.settle(before) { cluster.warnings() } else { Vec::new() };
        let accepted = Accepted { epoch: cluster.epoch, change, warnings };
        Ok((cluster, accepted))
    }
}

/// The first member's id.
const FIRST: NodeId = NodeId(1);

impl Cluster {
    fn form(now_ms: u64, bootstrap: &Bootstrap) -> Result<Self, Refused> {
        let Bootstrap { slot_count, shard_count, replication_factor, roles, certificate, .. } = *bootstrap;
        let slots_fit = slot_count.is_power_of_two() && slot_count <= SLOTS_MAX;
        if !slots_fit || !(1..=SHARDS_MAX.min(slot_count)).contains(&shard_count) {
            return Err(Refused::Counts);
        }
        if !(1..=REPLICATION_FACTOR_MAX).contains(&replication_factor) {
            return Err(Refused::ReplicationFactor);
        }
        if !roles.has(Role::Control) || !roles.has(Role::Storage) {
            return Err(Refused::Roles);
        }
        let member = Member {
            name: bootstrap.name.clone(),
            region: bootstrap.region.clone(),
            roles,
            addresses: bootstrap.addresses.clone(),
            certificate: None,
            state: MemberState::Active,
            joined_ms: now_ms,
        };
        let mut cluster = Self {
            id: bootstrap.cluster_id,
            name: bootstrap.cluster_name.clone(),
            domain: bootstrap.domain.clone(),
            slot_count,
            shard_count,
            policy: Policy { replication_factor, pair_votes: false },
            epoch: Epoch(1),
            node_next: NodeId(FIRST.0 + 1),
            members: [(FIRST, member)].into(),
            tokens: Default::default(),
            certificates: Default::default(),
            renewals: Default::default(),
            promoted: Default::default(),
            wished: Default::default(),
            standing: Default::default(),
        };
        // The groups of a new cluster are formed by its first member alone.
        let alone = Standing { config: GroupConfig::new([FIRST], []), at: LogIndex(0) };
        cluster.standing = cluster.groups().map(|group| (group, alone.clone())).collect();
        cluster.record(now_ms, FIRST, certificate)?;
        Ok(cluster)
    }

    fn decide(&mut self, now_ms: u64, action: &Action) -> Result<Change, Refused> {
        match action {
            Action::Bootstrap(_) => Err(Refused::AlreadyBootstrapped),
            Action::IssueToken { token, secret_hash, roles, region, expires_ms } => {
                let issued = JoinToken {
                    secret_hash: *secret_hash,
                    roles: *roles,
                    region: region.clone(),
                    expires_ms: *expires_ms,
                    used: None,
                };
                self.issue_token(now_ms, *token, issued)
            }
            Action::WithdrawToken { token } => {
                self.tokens.remove(token).map(|_| Change::TokenWithdrawn).ok_or(Refused::TokenUnknown)
            }
            Action::RedeemToken { token, secret_hash, csr_digest, name, addresses } => {
                let shown = Shown { secret_hash: *secret_hash, csr_digest: *csr_digest };
                self.redeem_token(now_ms, *token, shown, name, addresses)
            }
            Action::MemberUpdate { node, addresses } => self.update_member(now_ms, *node, addresses),
            Action::CertificateIssued { node, certificate } => self.issue_certificate(now_ms, *node, *certificate),
            Action::Renew { node, replaces, certificate } => self.renew(now_ms, *node, *replaces, *certificate),
            Action::AskRenewal { node } => self.ask_renewal(now_ms, *node),
            Action::Revoke { serial } => self.revoke(now_ms, *serial),
            Action::Drain { node } => self.drain(*node),
            Action::Undrain { node } => {
                self.member_in(*node, Wanted::Draining)?.state = MemberState::Active;
                Ok(Change::Undrained)
            }
            Action::Remove { node, force } => self.remove(now_ms, *node, *force),
            Action::SetReplication { factor, pair_votes } => {
                if !(1..=REPLICATION_FACTOR_MAX).contains(factor) {
                    return Err(Refused::ReplicationFactor);
                }
                let policy = Policy { replication_factor: *factor, pair_votes: *pair_votes };
                let changed = std::mem::replace(&mut self.policy, policy) != policy;
                Ok(if changed { Change::ReplicationSet } else { Change::Unchanged })
            }
            Action::Promote { shard, node } => self.promote(*shard, *node),
            Action::Report { group, config, at } => self.report(*group, config, *at),
        }
    }

    fn issue_token(&mut self, now_ms: u64, token: TokenId, issued: JoinToken) -> Result<Change, Refused> {
        if issued.roles.is_empty() {
            return Err(Refused::Roles);
        }
        if issued.expires_ms <= now_ms || now_ms.saturating_add(TOKEN_LIFETIME_MS_MAX) < issued.expires_ms {
            return Err(Refused::TokenLifetime);
        }
        if self.tokens.contains_key(&token) {
            return Err(Refused::TokenExists);
        }
        if self.tokens.len() == TOKENS_MAX {
            return Err(Refused::TokensFull);
        }
        self.tokens.insert(token, issued);
        Ok(Change::TokenIssued)
    }

    fn redeem_token(
        &mut self,
        now_ms: u64,
        token: TokenId,
        shown: Shown,
        name: &Name,
        addresses: &Addresses,
    ) -> Result<Change, Refused> {
        let node = self.node_next;
        let issued = self.tokens.get_mut(&token).filter(|issued| issued.secret_hash == shown.secret_hash);
        let issued = issued.ok_or(Refused::TokenUnknown)?;
        let (region, roles) = (issued.region.clone(), issued.roles);
        if let Some(used) = &issued.used {
            let (user, same) = (used.node, used.csr_digest == shown.csr_digest);
            if !same {
                return Err(Refused::TokenUsed(user));
            }
            self.member_in(user, Wanted::Here)?;
            return Ok(Change::Redeemed { node: user, region, roles });
        }
        if issued.expires_ms <= now_ms {
            return Err(Refused::TokenExpired);
        }
        let here = || self.members.iter().filter(|(_, member)| !member.state.is_removed());
        if let Some((&node, _)) = here().find(|(_, member)| member.name == *name) {
            return Err(Refused::NameTaken { name: name.clone(), node });
        }
        if here().count() == MEMBERS_MAX {
            return Err(Refused::MembersFull);
        }
        issued.used = Some(TokenUse { node, csr_digest: shown.csr_digest, used_ms: now_ms });
        let member = Member {
            name: name.clone(),
            region: region.clone(),
            roles,
            addresses: addresses.clone(),
            certificate: None,
            state: MemberState::Joining,
            joined_ms: now_ms,
        };
        self.members.insert(node, member);
        self.node_next = NodeId(node.0 + 1);
        Ok(Change::Redeemed { node, region, roles })
    }

    /// Only the holder of a member's certificate can speak for it, so a joining member that speaks has arrived.
    fn update_member(&mut self, now_ms: u64, node: NodeId, addresses: &Addresses) -> Result<Change, Refused> {
        let good = self.has_good_certificate(now_ms, node);
        let member = self.member_in(node, Wanted::Here)?;
        let activated = member.state == MemberState::Joining;
        if activated && !good {
            return Err(Refused::NodeState { node, state: member.state, wanted: Wanted::Certified });
        }
        if !activated && member.addresses == *addresses {
            return Ok(Change::Unchanged);
        }
        member.addresses = addresses.clone();
        if activated {
            member.state = MemberState::Active;
        }
        Ok(Change::Updated { activated })
    }

    fn issue_certificate(&mut self, now_ms: u64, node: NodeId, fact: CertificateFact) -> Result<Change, Refused> {
        let good = self.has_good_certificate(now_ms, node);
        let joining = self.member_in(node, Wanted::Here)?.state == MemberState::Joining;
        // A joining node whose answer was lost asks for another.
        if good && !joining {
            return Err(Refused::CertificateStands(node));
        }
        self.record(now_ms, node, fact)?;
        Ok(Change::CertificateRecorded)
    }

    fn renew(&mut self, now_ms: u64, node: NodeId, replaces: Serial, fact: CertificateFact) -> Result<Change, Refused> {
        let good = self.has_good_certificate(now_ms, node);
        let member = self.member_in(node, Wanted::Standing)?;
        if !good || member.certificate.is_none_or(|current| current.serial != replaces) {
            return Err(Refused::NotRenewable(node));
        }
        self.record(now_ms, node, fact)?;
        Ok(Change::CertificateRecorded)
    }

    fn ask_renewal(&mut self, now_ms: u64, node: NodeId) -> Result<Change, Refused> {
        self.member_in(node, Wanted::Standing)?;
        if !self.has_good_certificate(now_ms, node) {
            return Err(Refused::NotRenewable(node));
        }
        Ok(if self.renewals.insert(node) { Change::RenewalAsked } else { Change::Unchanged })
    }

    fn revoke(&mut self, now_ms: u64, serial: Serial) -> Result<Change, Refused> {
        let record = self.certificates.get_mut(&serial).ok_or(Refused::SerialUnknown(serial))?;
        if record.revoked_ms.is_some() {
            return Ok(Change::Unchanged);
        }
        record.revoked_ms = Some(now_ms);
        let owner = record.owner;
        let current = self.members.get(&owner).and_then(|member| member.certificate);
        Ok(Change::Revoked { owner, current: current.is_some_and(|current| current.serial == serial) })
    }

    fn drain(&mut self, node: NodeId) -> Result<Change, Refused> {
        self.member_in(node, Wanted::Active)?;
        self.check_successors(node, |member| member.state == MemberState::Active)?;
        self.member_in(node, Wanted::Active)?.state = MemberState::Draining;
        Ok(Change::Drained)
    }

    /// Refuses where no other member could do what only `node` does.
    fn check_successors(&self, node: NodeId, fits: impl Fn(&Member) -> bool) -> Result<(), Refused> {
        for (role, group) in [(Role::Control, Group::Control), (Role::Storage, Group::Shard(ShardId(0)))] {
            let has = |(_, member): &(&NodeId, &Member)| member.roles.has(role) && fits(member);
            let others = self.members.iter().filter(has).any(|(&other, _)| other != node);
            if !others && self.members.get(&node).is_some_and(|member| member.roles.has(role)) {
                return Err(Refused::NothingToTakeOver { node, group });
            }
        }
        Ok(())
    }

    fn remove(&mut self, now_ms: u64, node: NodeId, force: bool) -> Result<Change, Refused> {
        let state = self.member_in(node, Wanted::Here)?.state;
        self.check_successors(node, Member::takes_part)?;
        if state == MemberState::Active && !force {
            return Err(Refused::DrainFirst(node));
        }
        for (&group, standing) in &self.standing {
            let voters = &standing.config.voters;
            if !voters.contains(&node) {
                continue;
            }
            let here = |other: &&NodeId| self.members.get(other).is_some_and(|member| !member.state.is_removed());
            let remaining = voters.iter().filter(|other| **other != node).filter(here).count();
            if remaining < standing.config.majority() {
                let (voters, remaining) = (voters.len() as u8, remaining as u8);
                return Err(Refused::MajorityLost { node, group, voters, remaining });
            }
        }
        self.member_in(node, Wanted::Here)?.state = MemberState::Removed { removed_ms: now_ms };
        self.renewals.remove(&node);
        let mut revoked_count = 0;
        for record in self.certificates.values_mut().filter(|record| record.owner == node && record.is_good(now_ms)) {
            record.revoked_ms = Some(now_ms);
            revoked_count += 1;
        }
        Ok(Change::Removed { revoked_count })
    }

    fn promote(&mut self, shard: ShardId, node: NodeId) -> Result<Change, Refused> {
        let wish = self.wished.get(&Group::Shard(shard)).ok_or(Refused::UnknownShard(shard))?;
        let votes = wish.config.voters.contains(&node);
        if self.member_in(node, Wanted::Here)?.state != MemberState::Active || !votes {
            return Err(Refused::NotVoter { node, shard });
        }
        let changed = self.promoted.insert(shard, node) != Some(node);
        Ok(if changed { Change::Preferred } else { Change::Unchanged })
    }

    fn report(&mut self, group: Group, config: &GroupConfig, at: LogIndex) -> Result<Change, Refused> {
        let known = config.nodes().all(|node| NodeId(0) < node && node < self.node_next);
        if !known || !config.is_possible() {
            return Err(Refused::Report(group));
        }
        let standing = self.standing.get_mut(&group).ok_or(Refused::Report(group))?;
        if at <= standing.at {
            return Ok(Change::Unchanged);
        }
        *standing = Standing { config: config.clone(), at };
        Ok(Change::Reported)
    }

    fn record(&mut self, now_ms: u64, node: NodeId, fact: CertificateFact) -> Result<(), Refused> {
        let CertificateFact { serial, expires_ms } = fact;
        if expires_ms <= now_ms || now_ms.saturating_add(CERTIFICATE_LIFETIME_MS_MAX) < expires_ms {
            return Err(Refused::CertificateLifetime);
        }
        if self.certificates.contains_key(&serial) {
            return Err(Refused::SerialExists(serial));
        }
        if self.certificates.len() == CERTIFICATES_MAX {
            return Err(Refused::CertificatesFull);
        }
        self.certificates.insert(serial, CertificateRecord { owner: node, expires_ms, revoked_ms: None });
        self.member_in(node, Wanted::Here)?.certificate = Some(fact);
        self.renewals.remove(&node);
        Ok(())
    }

    fn has_good_certificate(&self, now_ms: u64, node: NodeId) -> bool {
        let current = self.members.get(&node).and_then(|member| member.certificate);
        let record = current.and_then(|current| self.certificates.get(&current.serial));
        record.is_some_and(|record| record.is_good(now_ms))
    }

    fn member_in(&mut self, node: NodeId, wanted: Wanted) -> Result<&mut Member, Refused> {
        let member = self.members.get_mut(&node).ok_or(Refused::UnknownNode(node))?;
        let state = member.state;
        let fits = match wanted {
            Wanted::Here | Wanted::Certified => !state.is_removed(),
            Wanted::Active => state == MemberState::Active,
            Wanted::Draining => state == MemberState::Draining,
            Wanted::Standing => member.takes_part(),
        };
        if fits { Ok(member) } else { Err(Refused::NodeState { node, state, wanted }) }
    }

    /// Drops what nobody can ask about any more.
    fn forget(&mut self, now_ms: u64) {
        self.tokens.retain(|_, token| !token.is_over(now_ms));
        self.certificates.retain(|_, record| !record.is_over(now_ms));
    }

    /// Places the copies anew and says whether routers must hear of it.
    fn settle(&mut self, before: &Self) -> bool {
        self.forget_removed();
        // A promotion that its member can no longer follow is over; what it wished must not weigh on the next placement.
        let members = &self.members;
        self.promoted.retain(|_, node| members.get(node).is_some_and(|member| member.state == MemberState::Active));
        self.wished = of_cluster(self);
        let wished = &self.wished;
        let votes = |shard: ShardId, node: &NodeId| {
            wished.get(&Group::Shard(shard)).is_some_and(|wish| wish.config.voters.contains(node))
        };
        let promotions = self.promoted.len();
        self.promoted.retain(|shard, node| votes(*shard, node));
        if self.promoted.len() < promotions {
            self.wished = of_cluster(self);
        }
        let members_differ = self.members.len() != before.members.len()
            || self.members.iter().any(|(node, member)| {
                before.members.get(node).is_none_or(|earlier| member.differs_in_topology(earlier))
            });
        let grew = members_differ || self.policy != before.policy || self.wished != before.wished;
        if grew {
            self.epoch = Epoch(before.epoch.0 + 1);
        }
        grew
    }

    /// Keeps the newest removed members for people to look at.
    fn forget_removed(&mut self) {
        let mut removed: Vec<(u64, NodeId)> = Vec::new();
        for (&node, member) in &self.members {
            if let MemberState::Removed { removed_ms } = member.state {
                removed.push((removed_ms, node));
            }
        }
        removed.sort_unstable();
        let surplus = removed.len().saturating_sub(REMOVED_KEPT_MAX);
        for (_, node) in removed.into_iter().take(surplus) {
            self.members.remove(&node);
        }
    }

    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let copies = self.members.values().filter(|member| member.holds_copies()).count() as u8;
        let wished = self.policy.replication_factor;
        let votes = |group: Group| self.wished.get(&group).map_or(0, |wish| wish.config.voters.len()) as u8;
        let shard_votes = votes(Group::Shard(ShardId(0)));
        if copies < wished {
            warnings.push(Warning::FewCopies { copies, wished });
        }
        if shard_votes == 2 {
            warnings.push(Warning::PairVotes);
        } else if shard_votes == 1 && 1 < copies && 1 < wished {
            warnings.push(Warning::OneOfTwoVotes);
        }
        if wished.is_multiple_of(2) && wished <= copies && shard_votes != wished {
            warnings.push(Warning::EvenFactor { wished, votes: shard_votes });
        }
        let control_votes = votes(Group::Control);
        if control_votes < 3 && 1 < self.members.values().filter(|member| member.takes_part()).count() {
            warnings.push(Warning::ControlFragile { votes: control_votes });
        }
        for (&group, wish) in &self.wished {
            let draining =
                |node: &&NodeId| self.members.get(node).is_some_and(|member| member.state == MemberState::Draining);
            warnings.extend(wish.config.voters.iter().filter(draining).map(|&node| Warning::KeepsVote { node, group }));
        }
        warnings
    }
}

/// What a joining node shows.
struct Shown {
    secret_hash: [u8; 32],
    csr_digest: [u8; 32],
}
